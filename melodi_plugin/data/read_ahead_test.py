"""Processes that tokenize, when one is killed."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from melodi_plugin.data.read_ahead import ReadAhead, TokenReader, Workers
from melodi_plugin.data.records import Document, DocumentsError


def tokenize(text: str) -> list[int]:
  return [int(token) for token in text.split()]


def make_reader(processes: int = 1) -> ReadAhead:
  documents: Any = [Document(f"d{i}", "1 2 3") for i in range(9)]
  return ReadAhead(TokenReader(documents, tokenize), Workers(processes))


def worker_of(ahead: ReadAhead) -> int:
  """Its process, after it has answered once."""
  ahead.request(0).result()
  return next(iter(ahead._executor._processes))  # type: ignore[attr-defined]


def is_running(process: int) -> bool:
  stat = pathlib.Path(f"/proc/{process}/stat")
  return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for_end(process: int) -> bool:
  """Whether it ends within 20 seconds."""
  end = time.monotonic() + 20
  while is_running(process) and time.monotonic() < end:
    time.sleep(0.1)
  return not is_running(process)


@pytest.mark.slow
def test_worker_that_ends_by_itself_is_a_sentence():
  ahead = make_reader()
  os.kill(worker_of(ahead), signal.SIGKILL)
  for _ in range(2):
    with pytest.raises(DocumentsError, match="A process that reads documents has ended"):
      ahead.answer(ahead.request(1))
  ahead.close()


@pytest.mark.slow
def test_worker_reads_on_at_a_sigterm_to_the_whole_job_and_ends_with_its_pool():
  ahead = make_reader()
  worker = worker_of(ahead)
  os.kill(worker, signal.SIGTERM)
  time.sleep(1)
  assert len(ahead.answer(ahead.request(1)).ids) == 3  # type: ignore[union-attr]
  ahead._executor._processes[worker].terminate()  # type: ignore[attr-defined]  # as a broken pool
  assert wait_for_end(worker)
  ahead.close()


@pytest.mark.slow
def test_worker_ends_with_a_trainer_that_is_killed():
  program = (
    f"import time; from {__name__} import *; ahead = make_reader(); "
    "print(worker_of(ahead), flush=True); time.sleep(600)"
  )
  arguments = [sys.executable, "-c", program]
  with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as trainer:
    assert trainer.stdout is not None
    worker = int(trainer.stdout.readline())
    assert is_running(worker)
    trainer.kill()
  if not wait_for_end(worker):
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker has outlived its trainer by 20 s")
