"""Kills trainings at random moments, and compares what becomes of them with one left alone.

uv run python -m integration_tests.soak.drive --kills 100 --minutes 60
"""

import argparse
import collections
import contextlib
import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from integration_tests.soak import forks
from integration_tests.soak.moments import MOMENTS, wait_for
from integration_tests.soak.runs import KINDS, Kind, Run, prepare

_RESERVE = 240.0  # seconds for all runs to end and be compared
_FULL = {2, -signal.SIGKILL}  # an error in a sentence, or it has had nothing to save in its time
_ENDS = {signal.SIGKILL: {-signal.SIGKILL}, signal.SIGTERM: {143, -signal.SIGTERM}}


class Soak:
  """Runs of all kinds, and what was found.

  Attributes:
    kills: number of kills by (kind, signal, moment).
    inside: after how many of them a half-written checkpoint lay there.
    finished: runs that were compared with the run left alone, and were equal.
    faults: sentences.
  """

  def __init__(self, folder: pathlib.Path, seed: int, kinds: list[Kind]):
    self.folder = folder
    self.kills: collections.Counter[tuple[str, str, str]] = collections.Counter()
    self.inside = 0
    self.finished: collections.Counter[str] = collections.Counter()
    self.faults: list[str] = []
    self._chance = random.Random(seed)
    self._kinds = kinds
    self._through: dict[int, Run] = {}
    self._runs: dict[str, Run] = {}
    self._numbers = itertools.count()
    self._start_seconds: dict[int, float] = {}  # to the first step, by processes

  def prepare(self) -> None:
    """Writes what is read, and trains without a kill; programs are compiled meanwhile."""
    if not forks.call(lambda: prepare(self.folder), self.folder / "prepare.txt"):
      sys.exit((self.folder / "prepare.txt").read_text())
    for processes in sorted({kind.processes for kind in self._kinds}):
      kind = next(kind for kind in KINDS if kind.processes == processes)
      run = self._through[processes] = Run(self.folder, kind, f"through_{processes}")
      run.start()
      began = time.monotonic()
      while not run.steps() and not run.ended():
        time.sleep(0.1)
      self._start_seconds[processes] = time.monotonic() - began
      run.wait(600)
      if any(run.statuses):
        sys.exit(f"{kind.name}: {run.statuses}\n{run.log().read_text()[-3000:]}")

  def kill_one(self) -> None:
    """One sitting, ended by a signal, by a full disk, or by its last step."""
    (kind,) = self._chance.choices(self._kinds, [kind.share for kind in self._kinds])
    if kind.name not in self._runs:
      name = f"{kind.name.replace(' ', '_')}_{next(self._numbers)}"
      self._runs[kind.name] = Run(self.folder, kind, name)
    run = self._runs[kind.name]
    moment = self._chance.choice(MOMENTS)
    if kind.small_disk and (moment != "start" or self._chance.random() < 0.5):
      number, how = None, "full disk"
    else:
      number = self._chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
      how = number.name
    began = time.monotonic()
    run.start()
    if not wait_for(moment, run, self._chance, self._start_seconds[kind.processes]):
      self._ended_by_itself(run)
      return
    if number is None:
      run.fill_disk(self._chance)
      run.wait(20.0)
      self._stop(run, signal.SIGKILL)  # it may have ended, or still wait
      run.free_disk()
    else:
      self._stop(run, number)
    self.kills[kind.name, how, moment] += 1
    self.inside += bool(run.begins_to_save())
    print(
      f"{sum(self.kills.values())}: {kind.name}, {how} at {moment} after "
      f"{time.monotonic() - began:.1f} s: status {run.statuses}, saved {run.saved()[-1:]}",
      flush=True,
    )
    self._check_status(run, number)

  def _stop(self, run: Run, number: signal.Signals) -> None:
    """Sends a signal to one process, or to all; what does not end within a time is killed."""
    processes = run.processes
    alone = len(processes) > 1 and self._chance.random() < 0.5
    for process in [self._chance.choice(processes)] if alone else processes:
      _send(process, number)
      time.sleep(self._chance.random() * 0.1 * (len(processes) > 1))
    run.wait(5.0 if number == signal.SIGKILL else 40.0)
    for process, status in zip(processes, run.statuses, strict=True):
      if status is None:
        _send(process, signal.SIGKILL)
    run.wait()

  def _check_status(self, run: Run, number: signal.Signals | None) -> None:
    """One process ends as the signal says; of two, one may be waiting for the other."""
    (status, *others) = run.statuses
    expected = _ENDS[number] if number else _FULL
    if not others and status not in expected | {0}:
      how = number.name if number else "full disk"
      self.faults.append(f"{run.name}: status {status} after {how}; {_last_line(run)}")

  def _ended_by_itself(self, run: Run) -> None:
    run.wait()
    if any(run.statuses):
      self.faults.append(f"{run.name} ended with {run.statuses}; {_last_line(run)}")
      del self._runs[run.kind.name]
      shutil.rmtree(run.checkpoints.parent, ignore_errors=True)
    else:
      self._compare(run)

  def _compare(self, run: Run) -> None:
    log = self.folder / f"{run.name}_compare.txt"
    if run.compare(self._through[run.kind.processes], log):
      self.finished[run.kind.name] += 1
      print(f"{run.name}: equal after {run.sittings} sittings", flush=True)
    else:
      self.faults.append(f"{run.name} differs: {log.read_text()[-2000:]}")
    del self._runs[run.kind.name]
    shutil.rmtree(run.checkpoints.parent)

  def finish(self) -> None:
    """Lets every run come to its end, and compares it."""
    for run in list(self._runs.values()):
      run.start()
      run.wait(300)
      self._ended_by_itself(run)

  def report(self) -> str:
    """The figures, as Markdown."""
    total = sum(self.kills.values())
    lines = [f"{total} kills; a half-written checkpoint lay there after {self.inside}", ""]
    lines += ["| kind | signal | " + " | ".join(MOMENTS) + " |", "|---" * (len(MOMENTS) + 2) + "|"]
    for kind, how in sorted({(kind, how) for kind, how, _ in self.kills}):
      counts = " | ".join(str(self.kills[kind, how, moment]) for moment in MOMENTS)
      lines.append(f"| {kind} | {how} | {counts} |")
    equal = ", ".join(f"{n} of {kind}" for kind, n in self.finished.items() if n)
    return "\n".join([*lines, "", f"runs that ended equal: {equal or 'none'}", *self.faults])


def _send(process: int, number: signal.Signals) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.kill(process, number)


def _last_line(run: Run) -> str:
  lines = [line for line in run.log().read_text(errors="replace").splitlines() if line.strip()]
  return re.sub(r"\s+", " ", lines[-1])[:400] if lines else "nothing was printed"


def soak(kills: int, minutes: float, seed: int, folder: pathlib.Path, names: list[str]) -> Soak:
  """Kills until there are enough kills or minutes; runs that are left then come to their end."""
  end = time.monotonic() + 60 * minutes
  kinds = [kind for kind in KINDS if kind.name in names]
  soaking = Soak(folder, seed, kinds)
  forks.import_all()
  soaking.prepare()
  while sum(soaking.kills.values()) < kills and time.monotonic() + _RESERVE < end:
    soaking.kill_one()
  soaking.finish()
  return soaking


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--minutes", type=float, default=60)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--kinds", nargs="*", default=[kind.name for kind in KINDS])
  parser.add_argument("--folder", type=pathlib.Path)
  arguments = parser.parse_args()
  names = arguments.kinds
  if os.geteuid() != 0 and "small disk" in names:
    print("skipped: a small disk can only be made as root")
    names.remove("small disk")
  folder = arguments.folder or pathlib.Path(tempfile.mkdtemp(prefix="soak_"))
  folder.mkdir(parents=True, exist_ok=True)
  try:
    soaked = soak(arguments.kills, arguments.minutes, arguments.seed, folder, names)
  finally:
    if (folder / "small").is_mount():
      subprocess.run(["umount", "-l", folder / "small"], check=True)
  print(soaked.report())
  return bool(soaked.faults)


if __name__ == "__main__":
  sys.exit(main())
