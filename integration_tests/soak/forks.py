"""Trainings as processes of their own that begin in a second: they are forked from this one.

This process imports MaxText once, and never touches JAX's devices: what needs them is forked too.
"""

import atexit
import os
import pathlib
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # it has no thread of JAX


def import_all() -> None:
  """What a training imports before its first line of work."""
  import melodi_plugin

  melodi_plugin.register()
  from maxtext.trainers.pre_train import train  # noqa: F401

  from melodi_plugin.cli import train as verb  # noqa: F401
  from melodi_plugin.maxtext import launch, session  # noqa: F401


def fork(program: Callable[[], int | None], log: pathlib.Path, **environment: str) -> int:
  """Runs `program` in a new process, with its output in `log`; returns the process."""
  if process := os.fork():
    return process
  os.environ |= environment
  out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(out, 1)
  os.dup2(out, 2)
  status = 1
  try:
    status = program() or 0
  except SystemExit as end:
    status = end.code if isinstance(end.code, int) else 1
  except BaseException:
    traceback.print_exc()
  finally:  # as Python ends, but without what stands above this function
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def ended(process: int) -> int | None:
  """The status of a process, minus the signal that has ended it; None while it runs."""
  found, status = os.waitpid(process, os.WNOHANG)
  return os.waitstatus_to_exitcode(status) if found else None


def wait(process: int, seconds: float) -> int | None:
  """The status of a process when it has ended; None if it has not after so many seconds."""
  end = time.monotonic() + seconds
  while (status := ended(process)) is None and time.monotonic() < end:
    time.sleep(0.01)
  return status


def call(program: Callable[[], int | None], log: pathlib.Path) -> bool:
  """Runs `program` in a process to its end; returns whether it has succeeded."""
  return wait(fork(program, log), 600) == 0
