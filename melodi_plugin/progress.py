"""Progress of a training run: step, loss, tokens per second, time left."""

import datetime
import logging as python_logging
import time
from collections.abc import Mapping
from typing import Any

from absl import logging

_EVERY_SECONDS = 2.0


class Progress:
  """Logs one line at most every two seconds, and one for the last step."""

  def __init__(self, steps: int):
    self.steps = steps
    self.began: float | None = None
    self.first_step = 0
    self.tokens = 0.0
    self.shown = 0.0

  def step_done(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Counts a finished step; `scalars` are MaxText's metrics of it."""
    now = time.monotonic()
    if self.began is None:  # the first step's time is mostly start-up
      self.began, self.first_step = now, step
      return
    self.tokens += float(scalars["learning/total_weights"])
    if now - self.shown < _EVERY_SECONDS and step + 1 < self.steps:
      return
    self.shown = now
    seconds = max(now - self.began, 1e-9)
    left = (self.steps - 1 - step) * seconds / (step - self.first_step)
    logging.info(
      "step %d of %d, loss %.3f, %s tokens/s, ETA %s",
      step + 1,
      self.steps,
      float(scalars["learning/lm_loss"]),
      f"{self.tokens / seconds:,.0f}",
      datetime.timedelta(seconds=round(left)),
    )


def quiet_checkpoint_log() -> None:
  """Leaves out Orbax's lines per checkpoint and array; MaxText says in one that it is saved."""

  def keep(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.WARNING or "/orbax/" not in record.pathname

  logging.get_absl_handler().addFilter(keep)
