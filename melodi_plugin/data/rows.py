"""Sticky batch rows: each row of the batch reads one document after another, across batches.

    batch 0         batch 1         batch 2
    |w0 w1 w2 w3|   |w4 w5 .. ..|   ...          row 0: document A, then (from window 6) B
    |w0 w1 w0 w1|   |w2 w3 w4 w5|   ...          row 1: document C (two windows), then D

A document starts at a window boundary; the tail of its last window is padding.  The memory that
the model carries for row b therefore always belongs to the document that row b is reading.

Letters: B rows of the whole batch, R rows that are read here, T segment tokens, W window tokens.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import grain
import numpy as np
from absl import logging
from grain.sources import RandomAccessDataSource

from melodi_plugin.data.documents import Document
from melodi_plugin.data.order import DocumentOrder
from melodi_plugin.data.place import StateMismatch, mismatch, sealed, unchecked
from melodi_plugin.data.read_ahead import ReadAhead, Tokenize, TokenReader, Workers
from melodi_plugin.data.row import OnBroken, OpenDocument, Row

Batch = dict[str, np.ndarray]

_KEYS = (
  "inputs",
  "inputs_position",
  "inputs_segmentation",
  "targets",
  "targets_position",
  "targets_segmentation",
)

_LAST_POSITION = np.iinfo(np.int32).max


class StickyRows(grain.IterDataset[Batch]):
  """Batches whose rows go on, from batch to batch, where they stopped.

  Every element is a dict of int32 arrays [R, T]:

    inputs                tokens; 0 on padding
    inputs_position       position in the document, 0, 1, 2, ... up to 2^31 - 1; 0 on padding; with
                          `segments_alone` in what the row has of the document in this batch
    inputs_segmentation   n for the n-th document within this row of this batch; 0 on padding
    targets               next token of the same document, also across the end of the segment
    targets_position      the same as inputs_position
    targets_segmentation  inputs_segmentation where there is a target that counts, else 0
    document_index        index into `source`; -1 on padding (only `with_document_index`)

  Every token of a document but its first is a target exactly once; which of them count, a
  `tokenize` with `with_scored` says (`read_ahead.document_tokens`), else all.  `DocumentOrder`
  says which documents a row reads; that depends on the row and not on the process that reads it.

  Args:
    source: the documents; `source[i]` has `id` and `text`.
    tokenize: text to token ids.
    rows: B.
    segment_length: T, a multiple of W.
    window_length: W.
    shuffle: read the documents of every epoch in an order drawn from (seed, epoch).
    seed: of that order.
    epochs: how often the documents are read, None for ever; when they run out, rows are padded
      and the iteration ends with the last batch that holds a token.
    sizes: bytes of every document, so that finite reading ends in all rows together.
    local_rows: the rows that are read here, in their order in the batch; None is all of them.
    workers: what tokenizes ahead; by default one thread.
    on_broken: told of every broken document, which is then left out; None raises it.
    with_document_index: adds the key `document_index`.
    segments_alone: for a model that carries nothing from batch to batch.

  Raises:
    ValueError: here for sizes that do not fit together; while iterating, `BrokenDocument`.
  """

  def __init__(
    self,
    source: RandomAccessDataSource[Document],
    tokenize: Tokenize,
    *,
    rows: int,
    segment_length: int,
    window_length: int,
    shuffle: bool,
    seed: int,
    epochs: int | None,
    sizes: np.ndarray | None = None,
    local_rows: Iterable[int] | None = None,
    workers: Workers | None = None,
    on_broken: OnBroken | None = None,
    with_document_index: bool = False,
    segments_alone: bool = False,
    memory: str | None = None,
  ):
    # The documents are a parent dataset, because MaxText asks for one when it closes a dataset.
    super().__init__(grain.MapDataset.source(source))
    for name, length in (("segment_length", segment_length), ("window_length", window_length)):
      if length < 1:
        raise ValueError(f"{name} is {length}; it must be at least 1.")
    if segment_length % window_length:
      raise ValueError(
        f"segment_length {segment_length} is not a multiple of window_length {window_length}; "
        "change one of them."
      )
    self.source = source
    self.segment_length = segment_length
    self.window_length = window_length
    self.order = DocumentOrder(len(source), rows, shuffle, seed, epochs, sizes)
    self.local_rows = tuple(range(rows) if local_rows is None else local_rows)
    self.ahead = ReadAhead(TokenReader(source, tokenize), workers or Workers())
    self.on_broken = on_broken
    self.with_document_index = with_document_index
    self.segments_alone = segments_alone
    self.memory = memory

  def __iter__(self) -> "StickyRowsIterator":
    return StickyRowsIterator(self)

  def __str__(self) -> str:
    return f"StickyRows({self.order}, local_rows={self.local_rows})"

  def fingerprint(self) -> dict[str, Any]:
    """All that decides which token comes where, and what a row's memory is of which tokens."""
    order = self.order
    return {
      "rows": order.rows,
      "window_length": self.window_length,
      "shuffle": order.shuffle,
      "seed": order.seed,
      "epochs": order.epochs,
      "documents": order.documents,
      "memory": self.memory,
      **self._fingerprint_of_texts,
    }

  @functools.cached_property
  def _fingerprint_of_texts(self) -> dict[str, Any]:
    """What takes time to find out; None for what a source or a tokenizer does not say."""
    tokenize, sizes = self.ahead.reader.tokenize, self.order.sizes
    files, known, tokenizer = (
      say() if (say := getattr(owner, name, None)) else None
      for owner, name in (
        (self.source, "fingerprint"),
        (self.source, "sizes_fingerprint"),
        (tokenize, "fingerprint"),
      )
    )
    if sizes is not None:  # the order depends on them
      digest = hashlib.blake2b(np.asarray(sizes, "<i8").tobytes(), digest_size=8)
      known = f"{known}, {digest.hexdigest()}"
    special = getattr(tokenize, "special_in_text", None)
    return {"files": files, "sizes": known, "tokenizer": tokenizer, "special_tokens": special}

  def close(self) -> None:
    """Stops the workers."""
    self.ahead.close()


class StickyRowsIterator(grain.DatasetIterator[Batch]):
  """Iterator of `StickyRows`.  Its state is small and JSON-able; resuming is exact."""

  def __init__(self, dataset: StickyRows):
    super().__init__()
    self.dataset = dataset
    self._rows = [
      Row(number, dataset.order, dataset.ahead, dataset.on_broken) for number in dataset.local_rows
    ]
    self._epoch = 0

  @property
  def _parent(self) -> grain.DatasetIterator:
    # Grain asserts here that there is a parent.  MaxText asks with hasattr() when it closes an
    # iterator, and that lets an AssertionError through.
    raise AttributeError("StickyRowsIterator reads documents and has no parent iterator")

  def __next__(self) -> Batch:
    self._assert_not_closed()
    batch = self.empty_batch()
    marks = [row.mark() for row in self._rows]
    try:
      for row in self._rows:
        row.look_ahead(1)
      for index, row in enumerate(self._rows):
        self._fill(index, row, batch)
    except Exception:  # of a document: no row has read of a batch that nobody gets
      for row, mark in zip(self._rows, marks, strict=True):
        row.back_to(mark)
      raise
    if not batch["inputs_segmentation"].any():
      raise StopIteration
    if self.dataset.segments_alone:
      positions = positions_alone(batch["inputs_segmentation"])
      batch |= {"inputs_position": positions, "targets_position": positions}
    return batch

  def empty_batch(self) -> Batch:
    """A batch of padding."""
    shape = (len(self._rows), self.dataset.segment_length)
    batch = {key: np.zeros(shape, np.int32) for key in _KEYS}
    if self.dataset.with_document_index:
      batch["document_index"] = np.full(shape, -1, np.int32)
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where every row is, by its number in the whole batch."""
    rows = {str(row.number): row.state() for row in self._rows}
    return sealed(self.dataset.fingerprint(), rows)

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to `state`, which may hold more rows than are read here.

    Raises:
      StateMismatch: if it was saved with other data, sizes or tokenizer.
    """
    dataset = self.dataset
    if problem := mismatch(state, dataset.fingerprint(), dataset.local_rows):
      raise StateMismatch(problem)
    if sentence := unchecked(state):
      logging.warning("%s", sentence)
    places = [(row, state["rows"][str(row.number)]) for row in self._rows]
    for row, place in places:
      row.go_to(**place)
    for row, place in places:
      row.arrive(**place)

  def close(self) -> None:
    """Stops the workers."""
    self.dataset.close()
    super().close()

  def _fill(self, index: int, row: Row, batch: Batch) -> None:
    """Writes the next T tokens of `row`, starting documents at window boundaries."""
    segment, window = self.dataset.segment_length, self.dataset.window_length
    start, nth, begun = 0, 0, 0
    while start < segment:
      if row.reading is None:
        row.reading = row.begin()
        begun += 1
      reading = row.reading
      if reading is None:
        return
      nth += 1
      stop = min(start + len(reading.tokens) - reading.offset, segment)
      offset = reading.offset + stop - start
      _write(batch, index, start, nth, reading, offset)
      row.advance(offset)
      start = -(-stop // window) * window
    row.look_ahead(begun + 1)  # short documents: as many as this time, and one more
    self._log_epoch(row)

  def _log_epoch(self, row: Row) -> None:
    order = self.dataset.order
    if order.epochs is None and row.k and order.epoch(row.number, row.k - 1) > self._epoch:
      self._epoch = order.epoch(row.number, row.k - 1)
      logging.info("Epoch %d of the documents begins.", self._epoch + 1)


def positions_alone(segment_ids: np.ndarray) -> np.ndarray:
  """Positions from 0 in every run of equal segment ids [R, T]; 0 on padding."""
  places = np.arange(segment_ids.shape[1], dtype=np.int32)
  begins = np.diff(segment_ids, axis=1, prepend=-1) != 0
  firsts = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
  return np.where(segment_ids > 0, places - firsts, 0).astype(np.int32)


def _write(batch: Batch, row: int, start: int, nth: int, reading: OpenDocument, end: int) -> None:
  """Writes tokens reading.offset..end of a document to `batch[row, start:]`."""
  inputs = reading.tokens[reading.offset : end]
  targets = reading.tokens[reading.offset + 1 : end + 1]
  here = slice(start, start + len(inputs))
  aimed = slice(start, start + len(targets))
  batch["inputs"][row, here] = inputs
  batch["targets"][row, aimed] = targets
  batch["inputs_segmentation"][row, here] = nth
  scored = True if reading.scored is None else reading.scored[reading.offset + 1 : end + 1]
  batch["targets_segmentation"][row, aimed] = np.where(scored, nth, 0)
  for key in ("inputs_position", "targets_position"):
    batch[key][row, here] = np.minimum(np.arange(reading.offset, end), _LAST_POSITION)
  if "document_index" in batch:
    batch["document_index"][row, here] = reading.document
