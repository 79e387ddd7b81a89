"""Who finds which state, where names may move, and what has to go; within a transaction.

What a call returns as a list are ids of states that are known no more: their files can go.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.index import Entry, Index, Named
from melodi_plugin.server.states.names import checked_name

_BRIEF_SECONDS = 86400  # for which sessions of pages that were closed are kept


class Budgets(NamedTuple):
  """How much is kept, and for how long."""

  bytes: int
  states: int
  sessions: int
  seconds: float  # without being used


class Rules:
  """Over the tables of an index; owners are hashes here."""

  def __init__(self, index: Index, budgets: Budgets, clock: Callable[[], float]):
    self._index, self._budgets, self._clock = index, budgets, clock

  # -- Finding -------------------------------------------------------------------------------------

  def response(self, owner: str, id: str) -> Entry:
    """A state that is found by its id; Refused with 404 if there is none."""
    entry = self._index.state(owner, id)
    if entry is None or entry.kind != "response":
      raise not_found("response", id)
    return entry

  def named(self, kind: str, owner: str, name: str) -> Named:
    """What a "session" or "memory" points to; Refused with 404 if there is none."""
    named = self._index.named(kind, owner, checked_name(name, kind))
    if named is None:
      raise not_found(kind, name)
    return named

  # -- Changing ------------------------------------------------------------------------------------

  def add(
    self,
    entry: Entry,
    body: dict[str, Any] | None,
    session: tuple[str, str | None] | None,
    memory: str | None,
  ) -> list[str]:
    """A new state, with its names; Refused with 409 or 503 as `Store.add`."""
    removed = []
    self._index.add(entry, body)
    if session is not None:
      removed += self.move(entry.owner, session[0], entry.id, session[1])
    if memory is not None:
      removed += self.point("memory", entry.owner, memory, entry.id)
    gone, fits = self.make_room(keep=entry.id)
    if not fits:
      raise Refused(
        503,
        "The server has no room for another state, because sessions and memories take all of it; "
        "delete some.",
        code="store_full",
      )
    return removed + gone

  def move(self, owner: str, session: str, id: str, expected: str | None) -> list[str]:
    """A session points to another state; Refused with 409 if it is not at `expected` any more."""
    named = self._index.named("session", owner, checked_name(session, "session"))
    if (named.state.id if named else None) != expected:
      raise _moved(session, expected)
    if named is None and self._index.totals().sessions >= self._budgets.sessions:
      raise Refused(
        503,
        f"The server keeps {self._budgets.sessions:,} sessions and no more; delete one.",
        code="store_full",
      )
    return self.point("session", owner, session, id)

  def point(self, kind: str, owner: str, name: str, id: str) -> list[str]:
    """The name points to this state from now on."""
    before = self._index.named(kind, owner, checked_name(name, kind))
    self._index.point(kind, owner, name, id, self._clock())
    return self._drop(before.state.id) if before else []

  def forget(self, kind: str, owner: str, name: str) -> list[str]:
    """Deletes a name; Refused with 404 if there is none."""
    named = self.named(kind, owner, name)
    self._index.forget(kind, owner, name)
    return self._drop(named.state.id)

  def hide(self, owner: str, id: str) -> list[str]:
    """A response is found by names only from now on; Refused with 404 if there is none."""
    self.response(owner, id)
    self._index.hide(id)
    return self._drop(id)

  # -- Making room ---------------------------------------------------------------------------------

  def make_room(self, keep: str = "") -> tuple[list[str], bool]:
    """Removes what is too old, then states without a name, those unused for longest first.

    Args:
      keep: a state that stays.

    Returns:
      The states, and whether the others are within the budgets.
    """
    removed = self._remove_expired()
    totals = self._index.totals()
    states, size = totals.states, totals.bytes
    evicted = []
    with contextlib.closing(self._index.unnamed()) as unnamed:
      for id, own_size, _ in unnamed:
        if states <= self._budgets.states and size <= self._budgets.bytes:
          break
        if id != keep:
          evicted.append(id)
          states, size = states - 1, size - own_size
    for id in evicted:
      self._index.remove(id)
    fits = states <= self._budgets.states and size <= self._budgets.bytes
    return removed + evicted, fits

  def _remove_expired(self) -> list[str]:
    now, seconds = self._clock(), self._budgets.seconds
    before, removed, old = now - seconds, [], []
    unused = self._index.names_unused_since(before, now - _BRIEF_SECONDS)
    for kind, owner, name, id in unused:
      self._index.forget(kind, owner, name)
      removed += self._drop(id)
    with contextlib.closing(self._index.unnamed()) as unnamed:
      for id, _, used in unnamed:
        if used >= before:
          break
        old.append(id)
    for id in old:
      self._index.remove(id)
    return removed + old

  def _drop(self, id: str) -> list[str]:
    """Removes a state if nobody can find it any more."""
    return [id] if self._index.remove_unfound(id) else []


def not_found(kind: str, name: str) -> Refused:
  """Whether it never was, is gone, or belongs to somebody else."""
  return Refused(404, f"There is no {kind} {name[:80]!r}; it may have expired or been deleted.")


def _moved(session: str, expected: str | None) -> Refused:
  message = (
    f"There is a session {session} already; choose another name, or delete it."
    if expected is None
    else f"The session {session} has gone on, or was deleted, since this request began; send it "
    "again."
  )
  return Refused(409, message, param="session")
