"""Progress of a training run: step, loss, tokens per second, what the input costs, time left."""

import contextlib
import datetime
import logging as python_logging
import time
from collections.abc import Mapping
from typing import Any

from absl import logging
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar


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
  """Counts steps, and puts them into words.

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

  def step_done(self, step: int, scalars: Mapping[str, Any]) -> str:
    """Counts a finished step; `scalars` are MaxText's metrics of it, and our input wait."""
    now = time.monotonic()
    said = f"step {step + 1} of {self.steps}, loss {float(scalars['learning/lm_loss']):.3f}"
    if "melodi/distill" in scalars:
      said += f", from the teacher {float(scalars['melodi/distill']):.3f}"
    if self.began is None:
      self.began, self.first_step = now, step
      return said
    self.tokens += float(scalars["learning/total_weights"])
    self.waited += scalars.get("perf/input_wait_seconds", 0.0)
    done, seconds = step - self.first_step, max(now - self.began, 1e-9)
    left = (self.steps - 1 - step) * seconds / done
    return (
      f"{said}, {self.tokens / seconds:,.0f} tokens/s, "
      f"input wait {100 * self.waited / seconds:.1f} %, "
      f"padding {100 * (1 - self.tokens / (done * self.slots)):.1f} %, "
      f"ETA {datetime.timedelta(seconds=round(left))}"
    )


class Screen(contextlib.AbstractContextManager["Screen"]):
  """What a person sees of a run: a bar on a terminal, elsewhere a line per period.

  Args:
    steps: of the whole run.
    period: steps between two lines.
    console: where to; standard error if it is not given.
  """

  def __init__(self, steps: int, period: int, console: Console | None = None):
    self._steps, self._period = steps, period
    self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    self._bar = Bar(*columns, console=self._console)
    self._task: TaskID | None = None

  def show(self, step: int, words: str) -> None:
    """The state after a step, which is counted from 0."""
    if self._console.is_terminal:
      if self._task is None:
        self._task = self._bar.add_task(words, total=self._steps)
        self._bar.start()
      self._bar.update(self._task, completed=step + 1, description=words)
    elif self._task is None or (step + 1) % self._period == 0 or step + 1 == self._steps:
      self._task = TaskID(0)
      self.say(words)

  def say(self, words: str) -> None:
    """A line that stays."""
    self._console.print(words, markup=False, highlight=False)

  def __exit__(self, *_: object) -> None:
    if self._bar.live.is_started:  # it would print an empty line
      self._bar.stop()


def quiet_logs() -> None:
  """Leaves out what is no warning, and Orbax's warnings per checkpoint and array."""
  logging.set_verbosity(logging.WARNING)

  def keep(record: python_logging.LogRecord) -> bool:
    return record.levelno > python_logging.WARNING or "/orbax/" not in record.pathname

  logging.get_absl_logger().addFilter(keep)
