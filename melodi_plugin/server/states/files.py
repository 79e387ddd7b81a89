"""The folder of a store: one process at a time, files of states, and files that are coming in."""

import contextlib
import fcntl
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from melodi_plugin.checkpoints.memory_format import BelongsElsewhere
from melodi_plugin.errors import is_full
from melodi_plugin.server.errors import Refused

Save = Callable[[str, Any, Sequence[int], str], None]
Load = Callable[[str], tuple[Any, tuple[int, ...], str]]
_STATE = re.compile(r"((?:resp|sess|mem)_[0-9a-f]{32})\.memory")
_PART = re.compile(r"\.[0-9a-f]{32}\.part")  # what was being written when a process ended


class StateFiles:
  """The files in a folder.

  Attributes:
    index: path of what is known of them.
  """

  def __init__(self, folder: str, save: Save, load: Load):
    """Takes the folder for this process; raises ValueError if another has it, OSError as open.

    Args:
      folder: for nothing else.
      save: writes path, row, pending and title; durable when it returns.
      load: reads row, pending and title; raises ValueError with a sentence.
    """
    self._save, self._load = save, load
    self._states, self._incoming = f"{folder}/states", f"{folder}/incoming"
    self.index = f"{folder}/index.sqlite"
    os.makedirs(folder, mode=0o700, exist_ok=True)  # what users said is nobody else's business
    os.makedirs(self._states, exist_ok=True)
    os.makedirs(self._incoming, exist_ok=True)
    _sync(folder)
    self._lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
      fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      os.close(self._lock)
      raise ValueError(
        f"another server keeps its states in {folder}; stop it, or choose another folder."
      ) from None
    if not os.path.exists(self.index) and self.ids():
      self.close()
      raise ValueError(
        f"{folder} has states, but {self.index} is missing; put it back, or choose another folder."
      )

  def close(self) -> None:
    """Another process may take the folder."""
    os.close(self._lock)

  def path(self, id: str) -> str:
    """Where the file of a state is."""
    return f"{self._states}/{id}.memory"

  def incoming(self) -> str:
    """A path for a file that is coming in, on the disk that holds states."""
    return f"{self._incoming}/.{uuid.uuid4().hex}.part"

  @contextlib.contextmanager
  def saved(self, id: str, row: Any, pending: Sequence[int], title: str) -> Iterator[int]:
    """A new file, which is on the disk in the block, and gone if that fails; yields its bytes."""
    with self._gone_if_failed(id):
      self._save(self.path(id), row, pending, title)
      yield os.path.getsize(self.path(id))

  @contextlib.contextmanager
  def taken(self, path: str, id: str) -> Iterator[int]:
    """The same of a file that came in."""
    with self._gone_if_failed(id):
      with open(path, "rb") as file:
        os.fsync(file.fileno())
      os.replace(path, self.path(id))
      _sync(self._states)
      yield os.path.getsize(self.path(id))

  @contextlib.contextmanager
  def _gone_if_failed(self, id: str) -> Iterator[None]:
    try:
      with disk_errors():
        yield
    except BaseException:
      self.remove([id])
      raise

  def loaded(self, path: str, status: int) -> tuple[Any, tuple[int, ...], str]:
    """What a file holds; Refused with `status` if damaged, 409 if it belongs to another model."""
    try:
      with disk_errors():
        return self._load(path)
    except ValueError as error:
      belongs_elsewhere = isinstance(error, BelongsElsewhere)
      # Where files are is nobody's business.
      message = str(error).replace(path, "the memory file")
      raise Refused(
        409 if belongs_elsewhere else status,
        message[:1].upper() + message[1:],
        code="other_model" if belongs_elsewhere else "damaged_file",
      ) from error

  def ids(self) -> set[str]:
    """Of all states that have a file."""
    found = map(_STATE.fullmatch, os.listdir(self._states))
    return {match[1] for match in found if match}

  def remove(self, ids: Iterable[str]) -> None:
    """Files of states, if they are there; one that cannot be removed is tried again at start."""
    for id in ids:
      with contextlib.suppress(OSError):
        os.unlink(self.path(id))

  def remove_parts(self) -> None:
    """Files that nobody writes any more."""
    for folder in (self._states, self._incoming):
      for name in filter(_PART.fullmatch, os.listdir(folder)):
        os.unlink(f"{folder}/{name}")


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
  """What the disk does not do is Refused: 503 if it is full, else 500; without paths."""
  try:
    yield
  except (OSError, sqlite3.Error) as error:
    if is_full(error) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
      message = "The disk of the server is full, so nothing was stored; try again later."
      raise Refused(503, message, code="disk_full") from error
    message = "The server cannot read or write its disk, so nothing was stored; try again later."
    raise Refused(500, message, code="disk_error") from error


def _sync(folder: str) -> None:
  """The names of its files are on the disk when this returns."""
  opened = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(opened)
  finally:
    os.close(opened)
