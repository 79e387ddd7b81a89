"""States of texts on the disk: each in a file of its own that never changes, and names for them.

A state is durable when the call that adds it returns: its file first, then one transaction that
makes it known and moves names to it.  A killed process leaves files that are not known, at most;
the next start deletes them.

All calls block, and may come from many threads.  Whatever an owner asks for of another's states,
the answer is that there is no such thing.  All calls raise Refused: 400 for a name that is none,
404 for what is not there, 503 if the disk is full, 500 if it cannot be read or written.
"""

import contextlib
import dataclasses
import os
import sqlite3
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.files import Load, Save, StateFiles, disk_errors
from melodi_plugin.server.states.index import Entry, Index, Named, Totals
from melodi_plugin.server.states.names import Claims, checked_name, hash_of_owner
from melodi_plugin.server.states.rules import Budgets, Rules, not_found

_GIB = 1 << 30
_DAY = 86400
_TITLE = 256  # characters of one that a file brings along
_PREFIXES = {"response": "resp", "session": "sess", "memory": "mem"}


@dataclasses.dataclass(frozen=True)
class State:
  """A state that texts go on from.

  Attributes:
    entry: what is known of it.
    row: after all tokens but `pending`.
    pending: tokens that come next, and have not been read.
  """

  entry: Entry
  row: Any
  pending: tuple[int, ...]


class Store:
  """The states of one model in one folder, which belongs to one process.

  Attributes:
    claims: names that one request has for itself; nothing here asks for them.
  """

  def __init__(
    self,
    folder: str,
    save: Save,
    load: Load,
    *,
    max_bytes: int = 64 * _GIB,
    max_states: int = 100_000,
    max_sessions: int = 10_000,
    max_age_days: float = 30.0,
    clock: Callable[[], float] = time.time,
  ):
    """Opens or makes the folder, and removes what is half there or too old.

    Args:
      folder, save, load: see `StateFiles`.
      max_bytes: of all files; to make room, states that no name points to go, unused ones first.
      max_states: the same for their number.
      max_sessions: of all owners.
      max_age_days: after which states and names that were not used are deleted.
      clock: seconds since 1970.

    Raises:
      ValueError: if another process has the folder, or a newer version wrote it.
      OSError, Refused: if it cannot be written.
    """
    self._clock, self.claims = clock, Claims()
    # Rows are large: however many requests go on from a state at once, they share one.
    self._shared = weakref.WeakValueDictionary[str, State]()
    self._files = StateFiles(folder, save, load)
    with contextlib.ExitStack() as opened:
      opened.callback(self._files.close)
      self._index = Index(self._files.index)
      opened.callback(self._index.close)
      budgets = Budgets(max_bytes, max_states, max_sessions, max_age_days * _DAY)
      self._rules = Rules(self._index, budgets, clock)
      self._remove_halves()
      self.sweep()
      self._close = opened.pop_all().close

  def close(self) -> None:
    """Another process may open the folder."""
    self._close()

  def _remove_halves(self) -> None:
    """What a process has left that was killed: files that are not known, and the other way."""
    self._files.remove_parts()
    there = self._files.ids()
    with self._removing() as removed:
      known = self._index.ids()
      for id in known - there:
        self._index.remove(id)
      removed += there - known

  # -- States --------------------------------------------------------------------------------------

  def add(
    self,
    owner: str,
    kind: str,
    row: Any,
    pending: Sequence[int],
    *,
    tokens: int,
    parent: str = "",
    title: str = "",
    body: dict[str, Any] | None = None,
    session: tuple[str, str | None] | None = None,
    memory: str | None = None,
    id: str | None = None,
  ) -> str:
    """Keeps a state, and moves names to it in the same commit; returns its id.

    Args:
      owner: key of whoever may find it, or its digest; "" is an owner, too.
      kind: "response", found by its id; "session" or "memory", by names only, and gone with them.
      row: the state, for `save`.
      pending: tokens that it has still to read.
      tokens: of the text, with `pending`.
      parent: id of the state that it went on from.
      title: for people.
      body: what `body` gives back.
      session: a name to be moved, and the id that it is expected to point to (None: it is new).
      memory: a name that points to it from now on.
      id: of `new_id`, if it was told already.

    Raises:
      Refused: 409 if the session points to another state by now; 503 if there is no room.
    """
    id = id or new_id(kind)
    with self._files.saved(id, row, pending, title) as size, self._removing() as removed:
      own = Entry(id, hash_of_owner(owner), kind, parent, title, tokens, size, self._clock())
      removed += self._rules.add(own, body, session, memory)
    return id

  def incoming(self) -> str:
    """A path for a file that is coming in; `adopt` takes it, or whoever asked deletes it."""
    return self._files.incoming()

  def adopt(self, owner: str, path: str, memory: str, title: str = "") -> str:
    """Keeps a memory file that came in, under a name; nothing is at `path` afterwards.

    Raises:
      Refused: 400 if it is damaged or no memory file, 409 if it belongs to another model.
    """
    id = new_id("memory")
    try:
      checked_name(memory, "name")
      row, pending, own_title = self._files.loaded(path, 400)
      tokens = row.tokens + len(pending)
      title = (title or own_title)[:_TITLE]
      with self._files.taken(path, id) as size, self._removing() as removed:
        who, now = hash_of_owner(owner), self._clock()
        own = Entry(id, who, "memory", "", title, tokens, size, now)
        removed += self._rules.add(own, None, None, memory)
    finally:
      with contextlib.suppress(OSError):
        os.unlink(path)
    return id

  def open(self, owner: str, id: str) -> State:
    """The state of a response."""
    with self._transaction():
      entry = self._rules.response(hash_of_owner(owner), id)
    self._was_used(entry.id)
    return self._state(entry)

  def body(self, owner: str, id: str) -> dict[str, Any]:
    """What was stored beside a response."""
    with self._transaction():
      return self._index.body(self._rules.response(hash_of_owner(owner), id).id) or {}

  def delete(self, owner: str, id: str) -> None:
    """A response is found no more; its state stays as long as a name points to it."""
    with self._removing() as removed:
      removed += self._rules.hide(hash_of_owner(owner), id)

  # -- Names: sessions and memories ----------------------------------------------------------------

  def head(self, kind: str, owner: str, name: str) -> str | None:
    """Id of the state that a "session" or "memory" points to; None if there is none."""
    with self._transaction():
      found = self._index.named(kind, hash_of_owner(owner), checked_name(name, kind))
      return found.state.id if found else None

  def open_named(self, kind: str, owner: str, name: str) -> State:
    """What a "session" or "memory" points to."""
    named = None
    while True:
      with self._transaction():
        before, named = named, self._rules.named(kind, hash_of_owner(owner), name)
      self._was_used(named.state.id, (kind, named.state.owner, name))
      try:
        return self._state(named.state)
      except Refused:
        # The name may have moved, and the file gone, while it was read.
        if before is not None and before.state.id == named.state.id:
          raise

  def named(self, kind: str, owner: str, name: str) -> Named:
    """One of them, without its state."""
    with self._transaction():
      return self._rules.named(kind, hash_of_owner(owner), name)

  def all_named(self, kind: str, owner: str) -> list[Named]:
    """The "session"s or "memory"s of an owner, by name."""
    with self._transaction():
      return self._index.all_named(kind, hash_of_owner(owner))

  def move(self, owner: str, session: str, id: str, expected: str | None = None) -> None:
    """A session points to another response; Refused with 409 if not at `expected` any more."""
    with self._removing() as removed:
      own = self._rules.response(hash_of_owner(owner), id)
      removed += self._rules.move(own.owner, session, own.id, expected)

  def fork(self, owner: str, kind: str, source: str, session: str) -> None:
    """A new session begins where a "session" or "memory" is now; Refused with 409 if it exists."""
    with self._transaction():
      named = self._rules.named(kind, hash_of_owner(owner), source)
      self._rules.move(named.state.owner, session, named.state.id, None)

  def forget(self, kind: str, owner: str, name: str) -> None:
    """Deletes a "session" or "memory"."""
    with self._removing() as removed:
      removed += self._rules.forget(kind, hash_of_owner(owner), name)

  def file(self, kind: str, owner: str, name: str) -> tuple[BinaryIO, Named]:
    """The open file of a "session" or "memory", which stays whole whatever becomes of the name."""
    with self._transaction():
      named = self._rules.named(kind, hash_of_owner(owner), name)
      file = open(self._files.path(named.state.id), "rb")  # noqa: SIM115, whoever asks closes it
    self._was_used(named.state.id, (kind, named.state.owner, name))
    return file, named

  # -- All of them ---------------------------------------------------------------------------------

  def stats(self) -> Totals:
    """How much there is, of all owners."""
    with self._transaction():
      return self._index.totals()

  def sweep(self) -> None:
    """Deletes what was not used for too long, and what is over the budgets and has no name."""
    with self._removing() as removed:
      removed += self._rules.make_room()[0]

  @contextlib.contextmanager
  def _transaction(self) -> Iterator[None]:
    with disk_errors(), self._index.transaction():
      yield

  @contextlib.contextmanager
  def _removing(self) -> Iterator[list[str]]:
    """A transaction; the files of states that it lists are deleted after it."""
    removed: list[str] = []
    with self._transaction():
      yield removed
    self._files.remove(removed)

  def _was_used(self, id: str, name: tuple[str, str, str] | None = None) -> None:
    # A full disk does not keep anybody from reading.
    with contextlib.suppress(sqlite3.OperationalError), self._index.transaction():
      self._index.used(id, self._clock())
      if name:
        self._index.name_used(*name, self._clock())

  def _state(self, entry: Entry) -> State:
    shared = self._shared.get(entry.id)
    if shared is not None and shared.entry == entry:
      return shared
    try:
      row, pending, _ = self._files.loaded(self._files.path(entry.id), 500)
    except Refused:
      with self._transaction():
        if self._index.state(entry.owner, entry.id) is None:
          raise not_found("state", entry.id) from None
      raise
    state = State(entry, row, pending)
    shared = self._shared.setdefault(entry.id, state)  # another thread may have read it meanwhile
    return shared if shared.entry == entry else state


def new_id(kind: str) -> str:
  """Of a state that is to be added, of this kind."""
  return f"{_PREFIXES[kind]}_{uuid.uuid4().hex}"
