"""One batch row: its place in its documents, and the next ones, read ahead."""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.data.order import DocumentOrder
from melodi_plugin.data.place import START_ANEW, StateMismatch
from melodi_plugin.data.read_ahead import ReadAhead
from melodi_plugin.data.records import DocumentsError

# As many broken documents as this, one after another, mean a store that is gone.
_BROKEN_TOGETHER = 100

OnBroken = Callable[[BrokenDocument], None]


class OpenDocument(NamedTuple):
  """The document that a row is reading, and how far it is; `scored` as in `DocumentTokens`."""

  document: int
  tokens: np.ndarray
  offset: int
  scored: np.ndarray | None = None


class Row:
  """Reads the documents of one row, in order.

  Attributes:
    number: of the row in the whole batch.
    k: number of documents begun.
    reading: the last of them, None if it is read to its end.
  """

  def __init__(
    self, number: int, order: DocumentOrder, ahead: ReadAhead, on_broken: OnBroken | None
  ):
    self.number = number
    self.k = 0
    self.reading: OpenDocument | None = None
    self._order = order
    self._ahead = ahead
    self._on_broken = on_broken
    self._coming: deque[tuple[int, Future]] = deque()
    self._broken_together = 0
    self._read: Any = None  # hash of the tokens that were read of the last document begun

  def look_ahead(self, count: int) -> None:
    """Requests the next `count` documents, or as many as are left."""
    while len(self._coming) < count:
      document = self._order.document(self.number, self.k + len(self._coming))
      if document is None:
        return
      self._coming.append((document, self._ahead.request(document)))

  def begin(self) -> OpenDocument | None:
    """The row's next document, or None at its end; broken ones are left out, or raised."""
    while isinstance(found := self._take(), BrokenDocument):
      self._leave_out(found)
    self._broken_together = 0
    return found

  def _take(self) -> OpenDocument | BrokenDocument | None:
    """The row's next document, also a broken one where those are left out."""
    self._read = None
    self.look_ahead(1)
    if not self._coming:
      return None
    document, future = self._coming[0]
    tokens = self._ahead.answer(future)
    if isinstance(tokens, BrokenDocument) and self._on_broken is None:
      raise tokens
    self._coming.popleft()
    self.k += 1
    if isinstance(tokens, BrokenDocument):
      return tokens
    self._read = hashlib.blake2b(digest_size=8)
    return OpenDocument(document, tokens.ids, 0, tokens.scored)

  def _leave_out(self, broken: BrokenDocument) -> None:
    assert self._on_broken is not None
    self._on_broken(broken)
    self._broken_together += 1
    if self._broken_together >= min(self._order.documents, _BROKEN_TOGETHER):
      raise DocumentsError(
        f"{self._broken_together} documents one after another are broken, so the fault is not in "
        f"single documents; the last one: {broken}"
      )

  def advance(self, offset: int) -> None:
    """Its document is read up to `offset`; a row that is at the end of one is between two."""
    assert self.reading is not None
    tokens = self.reading.tokens
    self._read.update(np.asarray(tokens[self.reading.offset : offset], "<i4").tobytes())
    self.reading = None if offset == len(tokens) else self.reading._replace(offset=offset)

  def mark(self) -> tuple[Any, ...]:
    """What `back_to` needs."""
    read = self._read.copy() if self._read else None
    return self.k, self.reading, read, self._broken_together

  def back_to(self, mark: tuple[Any, ...]) -> None:
    """Takes back what was read since `mark`; documents read ahead are requested anew."""
    self.k, self.reading, self._read, self._broken_together = mark
    self._coming.clear()

  def state(self) -> dict[str, Any]:
    """The place of the row.

    `offset` and `tokens` are 0 between two documents; `read` is the digest of the tokens that were
    read of the last document begun, '' if there is none or it was left out.
    """
    offset, tokens = (self.reading.offset, len(self.reading.tokens)) if self.reading else (0, 0)
    read = self._read.hexdigest() if self._read else ""
    return {"k": self.k, "offset": offset, "tokens": tokens, "read": read}

  def go_to(self, k: int, offset: int, tokens: int, read: str = "") -> None:
    """Begins to go to a state, which `arrive` completes: so all rows can read at the same time."""
    del offset
    self.reading = self._read = None
    self._coming.clear()
    self.k = k - 1 if tokens or read else k
    self.look_ahead(1)

  def arrive(self, k: int, offset: int, tokens: int, read: str = "") -> None:
    """Completes `go_to`: reads the document that the row was in the middle of, or has read last.

    Raises:
      StateMismatch: if that document is another one now.
    """
    if not tokens and not read:
      return
    reading = self._take()
    found = len(reading.tokens) if isinstance(reading, OpenDocument) else 0
    if not isinstance(reading, OpenDocument) or (tokens and found != tokens):
      raise self._mismatch(
        k,
        f"had {tokens or 'some'} tokens when the place in the documents was saved, and has "
        f"{found or 'none'} now",
      )
    self.reading = reading
    self.advance(offset if tokens else found)
    if read and self._read.hexdigest() != read:
      raise self._mismatch(k, "has another text than when the place in the documents was saved")

  def _mismatch(self, k: int, problem: str) -> StateMismatch:
    document = self._order.document(self.number, k - 1)
    name = "A document" if document is None else self._ahead.reader.name(document)
    return StateMismatch(
      f"{name} {problem}; resume with the same files and tokenizer, or {START_ANEW}."
    )
