"""One process in a folder: who is kept out, and what is taken over."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from melodi_plugin.errors import UserError
from melodi_plugin.output import lock
from melodi_plugin.output.lock import locked


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
  monkeypatch.setattr(lock, "RENEWED_SECONDS", 0.1)


def ended_process():
  process = subprocess.Popen([sys.executable, "-c", ""])
  process.wait()
  return process.pid


def leave(folder, **more):
  """What a process leaves that was killed."""
  said = {"host": socket.gethostname(), "pid": os.getppid(), "since": "then", "id": "x"} | more
  (folder / "lock.json").write_text(json.dumps(said | {"renewed": 3}))


def renewed(folder, ended):
  """Another process that is alive."""
  count = 0
  while not ended.wait(0.05):
    count += 1
    leave(folder, renews=count)


def test_lock_is_held_renewed_and_gone_afterwards(tmp_path):
  with locked(str(tmp_path)) as held:
    first = (tmp_path / "lock.json").read_text()
    time.sleep(0.25)
    later = (tmp_path / "lock.json").read_text()
    assert first != later and json.loads(first)["id"] == json.loads(later)["id"]
    held.check()
  assert not os.listdir(tmp_path)


def test_another_process_is_kept_out_and_told_of_whom(tmp_path):
  ended = threading.Event()
  leave(tmp_path)
  other = threading.Thread(target=renewed, args=(tmp_path, ended))
  other.start()
  try:
    with pytest.raises(UserError) as error, locked(str(tmp_path)):
      pass
  finally:
    ended.set()
    other.join()
  host = socket.gethostname()
  assert f"works in {tmp_path} (host {host}, process {os.getppid()}, since then)" in str(
    error.value
  )
  assert (tmp_path / "lock.json").exists()


@pytest.mark.parametrize(
  "whose",
  [
    {"pid": ended_process()},
    {"pid": os.getpid()},  # of a container that had this number before
    {"host": "elsewhere"},  # not renewed
    {},  # not renewed, while another process has its number now
  ],
  ids=["ended", "own number", "elsewhere", "number taken"],
)
def test_lock_of_a_process_that_is_gone_is_taken_over_with_a_line(tmp_path, caplog, whose):
  leave(tmp_path, **whose)
  with caplog.at_level("WARNING"), locked(str(tmp_path)) as held:
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    held.check()
  assert "lock.json is of a process that is gone (host " in caplog.text


def test_whole_file_that_is_no_lock_is_nobodys(tmp_path):
  (tmp_path / "lock.json").write_text("{")
  with locked(str(tmp_path)):
    pass


def test_process_that_has_lost_its_lock_is_told(tmp_path):
  with locked(str(tmp_path)) as held:
    leave(tmp_path)
    for _ in range(50):
      time.sleep(0.05)
      if held.lost:
        break
    with pytest.raises(UserError, match="was taken over by another process"):
      held.check()
  assert json.loads((tmp_path / "lock.json").read_text())["id"] == "x"
