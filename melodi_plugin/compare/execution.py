"""Executes the runs of a comparison, one after the other, with a bar; and locks their folder."""

import contextlib
import fcntl
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from melodi_plugin.compare.runs import Result, Run, RunError, execute
from melodi_plugin.errors import UserError
from melodi_plugin.output.files import check_writable

_HOUR = 3600.0


@contextlib.contextmanager
def locked(out: pathlib.Path) -> Iterator[None]:
  """Keeps a second comparison out of the folder; raises UserError if there is one in it.

  The lock belongs to an open file that the runs inherit, so a comparison that was killed leaves the
  folder only when its last process has ended.
  """
  try:
    check_writable(str(out / ".lock"))
  except NotADirectoryError:
    raise UserError(f"{out} is, or lies in, a file; give another out=.") from None
  lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
  os.set_inheritable(lock, True)
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise UserError(
      f"another comparison still writes to {out}; wait for it, or give another out=."
    ) from None
  try:
    yield
  finally:
    os.close(lock)


def execute_all(runs: Sequence[Run], steps: int) -> tuple[list[Result], list[str]]:
  """Does what is left of all runs; one that fails does not stop the others.

  Args:
    runs: in this order.
    steps: of each.

  Returns:
    What the runs measured, and a sentence for everything that failed.
  """
  console = Console(stderr=True)
  results: list[Result] = []
  failures: list[str] = []
  left = [run for run in runs if not run.finished]
  columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
  bar = (*columns, TextColumn("training steps, ETA"), TimeRemainingColumn())
  moving = Progress(*bar, console=console, speed_estimate_period=_HOUR, disable=not left)
  with moving as progress:
    # Steps of a comparison that was stopped count as done, but not for the speed.
    done = sum(run.steps_done() for run in left)
    task = progress.add_task("", total=steps * len(left), completed=done)

    def show(run: Run, stage: str) -> None:
      done = sum(run.steps_done() for run in left)
      text = f"{run.name}: {stage}"
      progress.update(task, description=text, completed=done, total=steps * len(left))

    def fail(failure: str) -> None:
      failures.append(failure)
      console.print(f"failed: {failure}", style="red", markup=False, soft_wrap=True)

    for run in runs:
      before = "finished before, not run again; " if run not in left else ""
      try:
        result, failed = execute(run, functools.partial(show, run))
      except RunError as error:
        left.remove(run)
        fail(str(error))
        continue
      results.append(result)
      console.print(
        f"{run.name}: {before}{_told(result)}", markup=False, highlight=False, soft_wrap=True
      )
      for failure in failed:
        fail(failure)
  return results, failures


def _told(result: Result) -> str:
  perplexity = result["evaluation"]["perplexity"]
  words = "not finite" if perplexity is None else f"{perplexity:.2f}"
  return f"test perplexity {words}, {result['tokens_per_second']:,.0f} tokens/s"
