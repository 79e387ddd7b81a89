"""A lock on a folder that may be remote: a file that says who works in it, renewed all the time.

It needs no clock that two machines share, and no lock of a file system: who finds a lock watches
whether it is renewed.  A process that is gone cannot keep others out.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
from absl import logging

from melodi_plugin.errors import UserError
from melodi_plugin.output.files import read_json, write_file

RENEWED_SECONDS = 10.0
NAME = "lock.json"


class Lock:
  """A lock that is held.

  Attributes:
    path: of its file.
    lost: whether another process has taken it over, as it may where this one seemed to be gone.
  """

  def __init__(self, path: str):
    self.path = path
    self.lost = False
    self._own: dict[str, Any] = {
      "host": socket.gethostname(),
      "pid": os.getpid(),
      "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
      "id": uuid.uuid4().hex,
    }
    self._ended = threading.Event()
    self._write(0)
    self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises UserError if the lock is lost."""
    if self.lost:
      raise UserError(
        f"{self.path} was taken over by another process, because this one did not renew it, and "
        "so has stopped; let only one of them run."
      )

  def release(self) -> None:
    """Ends it."""
    self._ended.set()
    self._thread.join()
    if not self.lost:
      files, name = fsspec.core.url_to_fs(self.path)
      with contextlib.suppress(Exception):  # stores have errors of their own
        files.rm_file(name)

  def _renew(self) -> None:
    count = 0
    while not self._ended.wait(RENEWED_SECONDS):
      count += 1
      # A full disk is no reason to stop, nor is a store that does not answer.
      with contextlib.suppress(Exception):
        found = _read(self.path)
        if found is not None and found.get("id") != self._own["id"]:
          self.lost = True
          return
        self._write(count)

  def _write(self, renewed: int) -> None:
    write_file(self.path, json.dumps(self._own | {"renewed": renewed}).encode())


@contextlib.contextmanager
def locked(folder: str) -> Iterator[Lock]:
  """Keeps other processes out of a folder.

  Raises:
    UserError: if another process works in it.
  """
  path = f"{folder}/{NAME}"
  if (other := _read(path)) is not None:
    said = f"host {other.get('host')}, process {other.get('pid')}, since {other.get('since')}"
    if not _is_gone(path, other):
      raise UserError(
        f"another process works in {folder} ({said}); wait for it, stop it, or choose another "
        "run_name."
      )
    logging.warning("%s is of a process that is gone (%s), and is taken over.", path, said)
  lock = Lock(path)
  try:
    yield lock
  finally:
    lock.release()


def _is_gone(path: str, other: dict[str, Any]) -> bool:
  """Whether nobody renews a lock any more; at once if its process was here, and is not now."""
  if other.get("host") == socket.gethostname():
    pid = other.get("pid")
    # A container that starts anew can give its first process the same number.
    if not isinstance(pid, int) or pid == os.getpid() or not _is_alive(pid):
      return True
  for _ in range(5):
    time.sleep(RENEWED_SECONDS / 2)
    if (now := _read(path)) != other:
      return now is None
  return True


def _is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    pass  # of another user
  return True


def _read(path: str) -> dict[str, Any] | None:
  """What the file says; None if there is none.  A file that nobody can read is nobody's."""
  try:
    found = read_json(path)
  except ValueError:
    return None
  return found if isinstance(found, dict) else {}
