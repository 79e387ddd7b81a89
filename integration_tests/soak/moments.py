"""When a training is killed: at a moment of its work, or at any."""

import random
import time
from collections.abc import Callable

from integration_tests.soak.runs import Run

_POLL = 0.002
MOMENTS = ("start", "saving", "saved", "evaluation", "any")


def wait_for(moment: str, run: Run, chance: random.Random, seconds: float) -> bool:
  """Waits for a moment of a sitting that has just begun; False if the sitting has ended before.

  Args:
    moment: one of MOMENTS.
    run: has been started.
    chance: draws what is random.
    seconds: that a sitting takes to its first step, about.
  """
  if moment == "start":
    return _sleep(run, chance.uniform(0, seconds))
  if moment == "any":
    while not run.steps():
      if not _sleep(run, _POLL):
        return False
    return _sleep(run, chance.uniform(0, seconds / 4))
  happens = _happens(moment, run)
  again = chance.randrange(1, 4)  # there are several commits between two kills
  while again:
    if run.ended():
      return False
    again -= happens()
    time.sleep(_POLL)
  return _sleep(run, chance.expovariate(1 / 0.03))


def _happens(moment: str, run: Run) -> Callable[[], bool]:
  """What says, once each, that a moment has come."""
  look = {
    "saving": run.begins_to_save,
    "saved": lambda: set(map(str, run.saved())),
    "evaluation": lambda: set(_evaluations(run)),
  }[moment]
  seen = look()

  def happens() -> bool:
    now = look()
    new = bool(now - seen)
    seen.clear()  # the log of a sitting begins anew
    seen.update(now)
    return new

  return happens


def _evaluations(run: Run) -> list[str]:
  """Those that have begun, each with its place in the log."""
  log = run.output / run.name / "log.txt"
  if not log.exists():
    return []
  text = log.read_text(errors="replace")
  return [str(i) for i in range(text.count("Starting eval after"))]


def _sleep(run: Run, seconds: float) -> bool:
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    if run.ended():
      return False
    time.sleep(_POLL)
  return not run.ended()
