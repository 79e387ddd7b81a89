"""Many documents read once, each into a memory file of its own.

As many are read at a time as there are slots; where one ends, the next begins.  A file is written
when its document is read to its end, and what is written already is not read again: after a kill
only the documents in flight are lost.
"""

import dataclasses
import hashlib
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import fsspec
import numpy as np

from melodi_plugin.checkpoints import memory_file, memory_format
from melodi_plugin.data.documents import BrokenDocument, Document, DocumentSource
from melodi_plugin.serving.checkpoint import Checkpoint
from melodi_plugin.serving.engine import NO_PREFIX, extend_prefix
from melodi_plugin.serving.prompts import read_documents

_LONGEST_NAME = 200  # bytes, of most file systems 255


@dataclasses.dataclass
class Totals:
  """What was done, for the last line."""

  written: int = 0
  there_before: int = 0
  broken: int = 0
  tokens: int = 0


class _Reading(NamedTuple):
  """A document in a slot."""

  index: int
  document: Document
  ids: np.ndarray  # to be read
  pending: int  # the last token
  done: int = 0  # of `ids`


class Memorizer:
  """Reads documents into files of a folder.

  Attributes:
    totals: so far.
  """

  def __init__(
    self, checkpoint: Checkpoint, source: DocumentSource, folder: str, *, compact: bool = False
  ):
    self.totals = Totals()
    self._checkpoint, self._source, self._folder = checkpoint, source, folder
    self._compact = compact

  def path(self, document_id: str) -> str:
    """The file of a document: its id, with what a file name cannot hold written as %2F."""
    name = urllib.parse.quote(document_id, safe=" ,;()[]'")
    if len(name) > _LONGEST_NAME:
      digest = hashlib.blake2b(document_id.encode(), digest_size=8).hexdigest()
      name = f"{name[:_LONGEST_NAME]}-{digest}"
    return f"{self._folder.rstrip('/')}/{name}.memory"

  def run(
    self,
    on_bytes: Callable[[float, int], None] = lambda size, tokens: None,
    on_broken: Callable[[BrokenDocument], None] | None = None,
  ) -> None:
    """Reads all that has no file yet.

    Args:
      on_bytes: told after every call how many bytes of text and tokens are done.
      on_broken: told what cannot be read; without it the first such document ends the run.

    Raises:
      BrokenDocument: without `on_broken`.
    """
    engine, sizes = self._checkpoint.engine, self._source.sizes()
    waiting = self._waiting(on_bytes, on_broken)
    in_slots: dict[int, _Reading] = {}
    free = list(range(len(engine.slots)))
    while True:
      while free and (reading := next(waiting, None)):
        engine.begin(free[0])
        in_slots[free.pop(0)] = reading
      if not in_slots:
        return
      pieces = {
        slot: own.ids[own.done : own.done + engine.programs.read_tokens]
        for slot, own in list(in_slots.items())[: engine.programs.read_rows[-1]]
      }
      engine.read(pieces)
      for slot, piece in pieces.items():
        reading = in_slots.pop(slot)
        reading = reading._replace(done=reading.done + len(piece))
        share = len(piece) / len(reading.ids) if len(reading.ids) else 1.0
        on_bytes(share * float(sizes[reading.index]), len(piece))
        if reading.done < len(reading.ids):
          in_slots[slot] = reading  # behind the others: all take turns
        else:
          self._save(slot, reading)
          free.append(slot)

  def _waiting(
    self, on_bytes: Callable[[float, int], None], on_broken: Callable[[BrokenDocument], None] | None
  ) -> Iterator[_Reading]:
    sizes = self._source.sizes()

    def count(error: BrokenDocument) -> None:
      assert on_broken is not None
      self.totals.broken += 1
      on_broken(error)

    paths: set[str] = set()
    for index, document in read_documents(self._source, on_broken and count):
      ids = self._checkpoint.tokenizer.prompt(document.text)
      if problem := self._problem(document, ids, paths):
        broken = BrokenDocument(self._source.name(index), problem)
        if on_broken is None:
          raise broken
        count(broken)
        continue
      paths.add(self.path(document.id))
      if self._is_there(document, ids):
        self.totals.there_before += 1
        on_bytes(float(sizes[index]), 0)
        continue
      yield _Reading(index, document, ids[:-1], int(ids[-1]))

  def _problem(self, document: Document, ids: np.ndarray, paths: set[str]) -> str:
    """Why a document can have no file, or ''; `paths` are the files of those before it."""
    if not len(ids):
      return "has no tokens; remove it"
    if self.path(document.id) in paths:
      return f"has the id of an earlier document, {document.id}; give every document one of its own"
    return ""

  def _is_there(self, document: Document, ids: np.ndarray) -> bool:
    """Whether its file is whole, and of this model, its settings, and these tokens."""
    path = self.path(document.id)
    fs, where = fsspec.core.url_to_fs(path)
    if not fs.exists(where):
      return False
    try:
      said = memory_format.describe(path).metadata
      memory_file.check_identity(path, said, self._checkpoint.identity)
    except ValueError:
      return False
    own = (len(ids) - 1, (int(ids[-1]),), self._compact)
    there = (said.tokens_read, said.pending, said.compact)
    return own == there and said.prefix == extend_prefix(NO_PREFIX, ids[:-1]).hex()

  def _save(self, slot: int, reading: _Reading) -> None:
    row = self._checkpoint.engine.extract(slot)
    self._checkpoint.save_memory(
      self.path(reading.document.id),
      row,
      [reading.pending],
      title=reading.document.id,
      compact=self._compact,
    )
    self.totals.written += 1
    self.totals.tokens += row.tokens
