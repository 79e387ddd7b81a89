"""Progress of a training run: step, loss, tokens per second, what the input costs, time left."""

import datetime
import logging as python_logging
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

_EVERY_SECONDS = 2.0


class InputWait:
  """Seconds that the training loop has waited for batches."""

  def __init__(self):
    self._seconds = 0.0

  def add(self, seconds: float) -> None:
    """Counts one wait."""
    self._seconds += seconds

  def take(self) -> float:
    """Seconds since the last call."""
    seconds, self._seconds = self._seconds, 0.0
    return seconds


INPUT_WAIT = InputWait()  # of this process's one training loop


class Progress:
  """Logs one line at most every two seconds, and one for the last step.

  Its shares are of all steps but the first, whose time is mostly start-up: `input wait` of the
  time, `padding` of the B·T slots of the batches (what has no target).
  """

  def __init__(self, steps: int, slots: int):
    self.steps = steps
    self.slots = slots
    self.began: float | None = None
    self.first_step = 0
    self.tokens = 0.0
    self.waited = 0.0
    self.shown = 0.0

  def step_done(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Counts a finished step; `scalars` are MaxText's metrics of it, and our input wait."""
    now = time.monotonic()
    if self.began is None:
      self.began, self.first_step = now, step
      return
    self.tokens += float(scalars["learning/total_weights"])
    self.waited += scalars["perf/input_wait_seconds"]
    if now - self.shown < _EVERY_SECONDS and step + 1 < self.steps:
      return
    self.shown = now
    done, seconds = step - self.first_step, max(now - self.began, 1e-9)
    left = (self.steps - 1 - step) * seconds / done
    logging.info(
      "step %d of %d, loss %.3f, %s tokens/s, input wait %.1f %%, padding %.1f %%, ETA %s",
      step + 1,
      self.steps,
      float(scalars["learning/lm_loss"]),
      f"{self.tokens / seconds:,.0f}",
      100 * self.waited / seconds,
      100 * (1 - self.tokens / (done * self.slots)),
      datetime.timedelta(seconds=round(left)),
    )


def quiet_checkpoint_log() -> None:
  """Leaves out Orbax's lines per checkpoint and array; MaxText says in one that it is saved."""

  def keep(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.WARNING or "/orbax/" not in record.pathname

  logging.get_absl_handler().addFilter(keep)
