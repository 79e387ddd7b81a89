"""Rows and results for tests of this package, as MaxText would have left them."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from melodi_plugin.compare.request import Request
from melodi_plugin.compare.results import Result
from melodi_plugin.compare.runs import Row, Run, RunError
from melodi_plugin.evaluation import statistics as scores
from melodi_plugin.evaluation.probes import result as probe

SIZES = {
  "parameters": 1000,
  "embedding_parameters": 100,
  "memory_short": 64,
  "memory_long": 128,
  "memory_all": 192,
  "slot_bytes": 4096,
  "training_flops_per_token": 6000.0,
}
SETTINGS = {
  "steps": 4,
  "global_batch_size_to_train_on": 2,
  "max_target_length": 64,
  "grain_train_files": "train.jsonl",
  "grain_eval_files": "test.jsonl",
  "learning_rate": 0.1,
  "decoder_block": "melodi",
  "melodi_base_block": "paper",
  "melodi_sink_tokens": 0,
}


def make_row(name: str = "memory", changed: Sequence[str] = (), **sizes: Any) -> Row:
  """A row; with each of `changed` it carries twice the memory."""
  own = SIZES | sizes
  more = own | {"memory_all": 2 * own["memory_all"]}
  return Row(name, f"{name}.yml", ("steps=4",), SETTINGS, own, dict.fromkeys(changed, more))


def make_request(*names: str, seeds: Sequence[int] = (0,)) -> Request:
  """A request for rows."""
  configs = tuple(f"{name}.yml" for name in names)
  return Request(configs, ("steps=4",), tuple(seeds), pathlib.Path("out"), "", ())


def make_evaluation(nats: float, tokens: int = 50) -> dict[str, Any]:
  """What `evaluation.json` holds for three documents, each a bit harder than the one before."""
  documents = []
  for index in range(3):
    losses = np.full(tokens + 10 * index, nats + 0.1 * index, np.float32)
    documents.append(
      scores.score_document(index, f"play {index}", "be " * 40, losses, losses > 0, window=16)
    )
  return scores.summarise(documents) | {"window": 16, "new": 64, "memory": "carried"}


def make_probe(run: str, **changes: Any) -> dict[str, Any]:
  """What the file of a recall probe holds."""
  answers = [probe.Answer(d, (d + i) % 3 > 0, 0.5 * d) for d in range(4) for i in range(5)]
  return {
    "probe": "mqar",
    "run": run,
    "memory": "carried",
    "checkpoint": f"{run}/checkpoints/7/items",
    "step": "7",
    "window": 6,
    "queue": 2,
    "what": "Keys and values.",
    "chance": 0.1,
    "documents": 9,
    "tokens": 54,
    "tokens_read": 54,
    "points": probe.points(answers, [(d, d) for d in range(5)]),
  } | changes


def make_result(row: Row, seed: int, nats: float, **measured: Any) -> Result:
  """What a finished run measured."""
  own = {
    "row": row.name,
    "seed": seed,
    "tokens_per_second": 100.0 + seed,
    "trained_tokens": 480,
    "peak_host_bytes": 2**30,
    "peak_device_bytes": None,
    "seconds": 9.0,
    "losses": [[step, nats + 1 / (1 + step)] for step in range(4)],
    "evaluation": make_evaluation(nats),
    "evaluated_with": {argument: make_evaluation(nats - 0.1) for argument in row.changed},
  }
  return own | measured


def line(step: int, loss: float = 2.0, seconds: float = 0.5, **more: float) -> str:
  """One line of a trainer's `metrics_file`."""
  own = {"step": float(step), "learning/loss": loss, "learning/total_weights": 100.0}
  return json.dumps(own | {"perf/step_time_seconds": seconds} | more) + "\n"


class Processes:
  """Plays the processes of runs: notes which were started, and fails where it is told to."""

  def __init__(self) -> None:
    self.started: list[tuple[str, str]] = []
    self.failing: set[tuple[str, str]] = set()
    self.steps = 4  # that training does before it ends well

  def __call__(
    self, run: Run, stage: str, arguments: Sequence[str], on_progress: Callable[[str], Any]
  ) -> None:
    """Leaves the files that the process of a stage would have left."""
    on_progress(stage)
    self.started.append((run.name, stage))
    if (run.name, stage) in self.failing:
      raise RunError(f"{run.name}: {stage} ended with status 1; see {run.log}")
    if stage == "training":
      self.train(run, arguments)
    elif stage == f"probe {run.probe}":
      probed = {"probe": run.probe, "points": [{"from": 0, "to": 0}]}
      (run.folder / f"probe_{run.probe}.json").write_text(json.dumps(probed))
    else:
      self.evaluate(arguments)

  def train(self, run: Run, arguments: Sequence[str]) -> None:
    """Leaves a checkpoint, the log and the measurements."""
    (run.folder / "checkpoints" / str(self.steps - 1) / "items").mkdir(parents=True)
    (run.folder / "metrics.jsonl").write_text("".join(map(line, range(self.steps))))
    measured = {"peak_host_bytes": 5, "peak_device_bytes": None, "seconds": 1.0}
    pathlib.Path(arguments[1]).write_text(json.dumps(measured))

  def evaluate(self, arguments: Sequence[str]) -> None:
    """Leaves `evaluation.json`."""
    keys = dict(argument.split("=", 1) for argument in arguments[3:])
    assert keys["load_parameters_path"].endswith("checkpoints/3/items")
    folder = pathlib.Path(keys["base_output_directory"], keys["run_name"])
    folder.mkdir(exist_ok=True)
    end = "_reset_every_window" if keys.get("melodi_reset_every_window") == "true" else ""
    (folder / f"evaluation{end}.json").write_text(json.dumps([make_evaluation(3.0)]))
