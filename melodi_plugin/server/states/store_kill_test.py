"""A process is killed at random moments, and a disk is full: what was told to be kept is there."""

import contextlib
import os
import random
import subprocess
import sys
import time

import pytest

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.states import TextRow, files_in, load, save

# Two threads, so that one writes a file while the other commits; told only when `add` has returned.
_WRITES = """
import sys, threading
from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.states import TextRow, load, save
store = Store(sys.argv[1], save, load)
def run(name):
  head, count = store.head("session", "ann", name), 0
  while True:
    count += 1
    text = f"{head} then {count}"
    row = TextRow(text, 3, 20_000)
    head = store.add("ann", "session", row, (7,), tokens=4, session=(name, head))
    id = store.add("ann", "response", row, (7,), tokens=4, body={"text": text})
    sys.stdout.write(f"{name} {head} {id} {text}\\n")
    sys.stdout.flush()
print("ready", flush=True)
for name in ("a", "b"):
  threading.Thread(target=run, args=(name,)).start()
"""


def killed_after(seconds, folder):
  """The whole lines that a process wrote until it was killed, as words."""
  process = subprocess.Popen(
    [sys.executable, "-c", _WRITES, str(folder)], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout is not None and process.stdout.readline() == "ready\n"
  time.sleep(seconds)
  process.kill()
  lines = process.communicate()[0].splitlines(keepends=True)
  return [line.split(" ", 3) for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_whatever_was_told_to_be_kept_survives_a_kill(tmp_path, kills):
  random_ = random.Random(0)
  told, halves = {}, 0
  for _ in range(kills):
    lines = killed_after(random_.uniform(0.02, 0.25), tmp_path)
    heads = {}
    for name, head, id, text in lines:
      told[id] = text.rstrip("\n")
      heads[name] = head
    before = len(files_in(tmp_path))
    store = Store(str(tmp_path), save, load)
    halves += before - len(files_in(tmp_path))
    for id, text in told.items():
      assert store.open("ann", id).row.text == text
      assert store.body("ann", id) == {"text": text}
    for name, head in heads.items():
      # The last told, or one that was not told yet and goes on from it.
      state = store.open_named("session", "ann", name)
      assert state.entry.id == head or state.row.text.startswith(head)
    assert len(files_in(tmp_path)) == store.stats().states
    store.close()
  assert len(told) > kills
  assert halves or kills < 20  # else the kills came between the writes only


@contextlib.contextmanager
def small_disk(folder, size):
  try:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    pytest.skip("only root can mount a small disk")
  try:
    yield
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_goes_on_once_there_is_room(tmp_path):
  with small_disk(tmp_path, "2m"):
    store, ids = Store(str(tmp_path), save, load), []

    def add(size=100_000):
      return store.add("ann", "response", TextRow("x", 3, size), (7,), tokens=4, body={})

    def add_until_full(size):
      while True:
        try:
          ids.append(add(size))
        except Refused as error:
          return error

    for size in (100_000, 1000, 1):  # at last there is no room for the index, either
      error = add_until_full(size)
      assert (error.status, error.code) == (503, "disk_full")
      assert len(files_in(tmp_path)) == store.stats().states == len(ids)
    for id in ids:
      assert store.open("ann", id).row.text == "x"
    store.close()
    os.unlink(tmp_path / "states" / f"{ids[0]}.memory")
    store = Store(str(tmp_path), save, load)
    add(1000)
    assert store.stats().states == len(ids)
    store.close()
