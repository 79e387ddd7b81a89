"""What a training run has logged to its `metrics_file`: one line of JSON per step."""

import json
import math
import os
import pathlib
import statistics
from typing import Any

_START = 3  # steps that compile, or wait for what compiles
_TAIL = 16384  # bytes that hold the last line


def last_step(path: pathlib.Path) -> int:
  """Steps done so far, cheap enough to be asked every second."""
  try:
    with open(path, "rb") as file:
      file.seek(max(0, os.path.getsize(path) - _TAIL))
      lines = file.read().splitlines()
  except FileNotFoundError:
    return 0
  steps = [found["step"] for line in lines if (found := _read(line))]
  return 1 + int(steps[-1]) if steps else 0


def read(path: pathlib.Path) -> dict[str, Any]:
  """Loss by step, speed, and tokens learned from.

  A run that was killed repeats the steps after its last checkpoint: what came last counts.  A kill
  can also lose the line of the checkpoint's own step; its tokens count as the mean of the others.
  """
  found = (_read(line) for line in path.read_bytes().splitlines())
  lines = list({line["step"]: line for line in found if line}.values())
  tokens = [line["learning/total_weights"] for line in lines]
  usual = lines[min(_START, len(lines) - 1) :]
  speeds = [line["learning/total_weights"] / line["perf/step_time_seconds"] for line in usual]
  return {
    "tokens_per_second": statistics.median(speeds),
    "trained_tokens": round(statistics.mean(tokens) * (1 + max(line["step"] for line in lines))),
    "losses": [[int(line["step"]), _loss(line)] for line in lines],
  }


def _loss(line: dict[str, Any]) -> float | None:
  """The loss without the balance losses that some models add; None if it is not finite."""
  loss = line.get("learning/lm_loss", line["learning/loss"])
  return loss if math.isfinite(loss) else None


def _read(line: bytes) -> dict[str, Any] | None:
  """A training step, or None for an evaluation.

  A line that a kill has cut has the first line of the resumed run right behind it.
  """
  try:
    found = json.loads(line[line.rfind(b"{") :])
  except ValueError:
    return None
  return found if isinstance(found, dict) and "learning/loss" in found else None
