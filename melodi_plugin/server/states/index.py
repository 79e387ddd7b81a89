"""What is known of all states, and the names that point to them: one SQLite file.

A transaction is on the disk when its block ends.  Files of states are not touched here.
"""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from melodi_plugin.server.states.names import BRIEF

_VERSION = 1
_TABLES = """
CREATE TABLE states (
  id TEXT PRIMARY KEY, owner TEXT NOT NULL, kind TEXT NOT NULL, parent TEXT NOT NULL,
  title TEXT NOT NULL, tokens INTEGER NOT NULL, bytes INTEGER NOT NULL, created REAL NOT NULL,
  used REAL NOT NULL, body TEXT
) WITHOUT ROWID;
CREATE INDEX states_by_use ON states (used, bytes);
CREATE TABLE names (
  kind TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL,
  state TEXT NOT NULL REFERENCES states (id), created REAL NOT NULL, used REAL NOT NULL,
  PRIMARY KEY (kind, owner, name)
) WITHOUT ROWID;
CREATE INDEX names_by_state ON names (state);
CREATE INDEX names_by_use ON names (used);
"""
_ENTRY = "id, owner, kind, parent, title, tokens, bytes, states.created"
_UNNAMED = "NOT EXISTS (SELECT 1 FROM names WHERE state = states.id)"


class Entry(NamedTuple):
  """What is known of a state.

  Attributes:
    id: of the state.
    owner: hash of the key that made it.
    kind: "response", found by its id; others ("session", "memory") are found by names only.
    parent: id of the state that it went on from; "" for none.
    title: for people.
    tokens: of the text, with those that are pending.
    bytes: of its file.
    created: seconds since 1970.
  """

  id: str
  owner: str
  kind: str
  parent: str
  title: str
  tokens: int
  bytes: int
  created: float


class Named(NamedTuple):
  """A name, and the state that it points to."""

  name: str
  created: float  # seconds since 1970
  used: float
  state: Entry


class Totals(NamedTuple):
  """How much there is."""

  states: int
  bytes: int
  sessions: int
  memories: int


class Index:
  """The two tables; for many threads, one transaction at a time."""

  def __init__(self, path: str):
    """Opens or makes it; raises ValueError if it is of a newer version, or no index."""
    self._lock = threading.Lock()
    # Transactions are begun by hand; one that is open is nobody else's by the lock.
    self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
      self._prepare(path)
    except sqlite3.DatabaseError as error:
      self._db.close()
      raise ValueError(
        f"{path} cannot be used: {error}; put a copy of it there, or choose another folder."
      ) from error
    except ValueError:
      self._db.close()
      raise

  def _prepare(self, path: str) -> None:
    (version,) = self._db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
      raise ValueError(
        f"{path} has the layout {version}, and this version of melodi_plugin knows up to "
        f"{_VERSION}; install a newer one, or choose another folder."
      )
    self._db.execute("PRAGMA journal_mode = WAL")
    self._db.execute("PRAGMA synchronous = FULL")
    self._db.execute("PRAGMA foreign_keys = ON")
    if version == 0:
      with self.transaction():
        for statement in _TABLES.strip().split(";\n"):
          self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

  def close(self) -> None:
    """Nothing can be asked afterwards."""
    with self._lock:
      self._db.close()

  @contextlib.contextmanager
  def transaction(self) -> Iterator[None]:
    """All calls in the block happen, or none; every other method is called in such a block."""
    with self._lock:
      self._db.execute("BEGIN IMMEDIATE")
      try:
        yield
        self._db.execute("COMMIT")
      except BaseException:
        # SQLite has rolled back by itself after some errors, as on a full disk.
        if self._db.in_transaction:
          self._db.execute("ROLLBACK")
        raise

  # -- States --------------------------------------------------------------------------------------

  def add(self, entry: Entry, body: dict[str, Any] | None) -> None:
    """A new state, used when it was created."""
    text = None if body is None else json.dumps(body)
    self._db.execute(
      "INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*entry, entry.created, text)
    )

  def state(self, owner: str, id: str) -> Entry | None:
    """A state of this owner."""
    query = f"SELECT {_ENTRY} FROM states WHERE id = ? AND owner = ?"
    found = self._db.execute(query, (id, owner)).fetchone()
    return found and Entry(*found)

  def body(self, id: str) -> dict[str, Any] | None:
    """What was stored beside the state."""
    ((text,),) = self._db.execute("SELECT body FROM states WHERE id = ?", (id,))
    return None if text is None else json.loads(text)

  def ids(self) -> set[str]:
    """Of all states."""
    return {id for (id,) in self._db.execute("SELECT id FROM states")}

  def used(self, id: str, now: float) -> None:
    """The state was used."""
    self._db.execute("UPDATE states SET used = ? WHERE id = ?", (now, id))

  def hide(self, id: str) -> None:
    """The state is found by the names that point to it only, and its body is gone."""
    self._db.execute("UPDATE states SET kind = 'session', body = NULL WHERE id = ?", (id,))

  def remove(self, id: str) -> None:
    """The state, and names that point to it, are gone."""
    self._db.execute("DELETE FROM names WHERE state = ?", (id,))
    self._db.execute("DELETE FROM states WHERE id = ?", (id,))

  def remove_unfound(self, id: str) -> bool:
    """Removes the state if it is found by names only, and has none; whether it did."""
    query = f"DELETE FROM states WHERE id = ? AND kind != 'response' AND {_UNNAMED}"
    return self._db.execute(query, (id,)).rowcount == 1

  def unnamed(self) -> Generator[tuple[str, int, float]]:
    """States that no name points to: id, bytes and when it was used; those used last come last.

    Nothing may be changed while they are walked through.
    """
    query = f"SELECT id, bytes, used FROM states WHERE {_UNNAMED} ORDER BY states.used"
    yield from self._db.execute(query)

  # -- Names ---------------------------------------------------------------------------------------

  def point(self, kind: str, owner: str, name: str, id: str, now: float) -> None:
    """The name points to this state from now on."""
    self._db.execute(
      "INSERT INTO names VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (kind, owner, name) "
      "DO UPDATE SET state = excluded.state, used = excluded.used",
      (kind, owner, name, id, now, now),
    )

  def named(self, kind: str, owner: str, name: str) -> Named | None:
    """What a name points to."""
    return next((own for own in self._names(kind, owner, "AND name = ?", name)), None)

  def all_named(self, kind: str, owner: str) -> list[Named]:
    """What names point to, by name."""
    return list(self._names(kind, owner, "ORDER BY name"))

  def _names(self, kind: str, owner: str, rest: str, *values: str) -> Iterator[Named]:
    columns = _ENTRY.replace("id, owner, kind", "id, states.owner, states.kind")
    query = (
      f"SELECT name, names.created, names.used, {columns} FROM names JOIN states ON id = state "
      f"WHERE names.kind = ? AND names.owner = ? {rest}"
    )
    for name, created, used, *entry in self._db.execute(query, (kind, owner, *values)):
      yield Named(name, created, used, Entry(*entry))

  def name_used(self, kind: str, owner: str, name: str, now: float) -> None:
    """The name was used."""
    query = "UPDATE names SET used = ? WHERE kind = ? AND owner = ? AND name = ?"
    self._db.execute(query, (now, kind, owner, name))

  def forget(self, kind: str, owner: str, name: str) -> None:
    """The name is gone; its state is not."""
    query = "DELETE FROM names WHERE kind = ? AND owner = ? AND name = ?"
    self._db.execute(query, (kind, owner, name))

  def names_unused_since(self, when: float, brief: float) -> list[tuple[str, str, str, str]]:
    """Kind, owner, name and state; of sessions that are BRIEF, those not used since `brief`."""
    query = (
      "SELECT kind, owner, name, state FROM names WHERE used < ? AND "
      "(used < ? OR kind = 'session' AND instr(name, ?) = 1)"
    )
    return self._db.execute(query, (max(when, brief), when, BRIEF)).fetchall()

  def totals(self) -> Totals:
    """How much there is."""
    query = "SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM states"
    states, size = self._db.execute(query).fetchone()
    kinds = dict(self._db.execute("SELECT kind, COUNT(*) FROM names GROUP BY kind").fetchall())
    return Totals(states, size, kinds.get("session", 0), kinds.get("memory", 0))
