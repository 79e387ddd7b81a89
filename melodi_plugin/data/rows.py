"""Sticky batch rows: each row of the batch reads one document after another, across batches.

    batch 0         batch 1         batch 2
    |w0 w1 w2 w3|   |w4 w5 .. ..|   ...          row 0: document A, then (from window 6) B
    |w0 w1 w0 w1|   |w2 w3 w4 w5|   ...          row 1: document C (two windows), then D

A document starts at a window boundary; the tail of its last window is padding.  The memory that
the model carries for row b therefore always belongs to the document that row b is reading.

Letters: B rows, T segment tokens, W window tokens, K = T/W windows per segment.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import logging
from grain.sources import RandomAccessDataSource

from melodi_plugin.data.documents import Document

Batch = dict[str, np.ndarray]

_KEYS = (
  "inputs",
  "inputs_position",
  "inputs_segmentation",
  "targets",
  "targets_position",
  "targets_segmentation",
)


def document_order(
  documents: int, *, shuffle: bool, seed: int, epoch: int, shard_index: int, shard_count: int
) -> np.ndarray:
  """Document indices that shard `shard_index` reads in `epoch`, in order, int64."""
  order = np.arange(documents)
  if shuffle:
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(documents)
  return order[shard_index::shard_count]


@dataclasses.dataclass(frozen=True)
class _Plan:
  """What decides which token lands where."""

  rows: int
  segment_length: int
  window_length: int
  shuffle: bool
  seed: int
  epochs: int | None
  shard_index: int
  shard_count: int
  documents: int

  def __post_init__(self):
    for name in ("rows", "segment_length", "window_length", "epochs"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1.")
    if self.segment_length % self.window_length:
      raise ValueError(
        f"segment_length {self.segment_length} is not a multiple of window_length "
        f"{self.window_length}; change one of them."
      )
    if not 0 <= self.shard_index < self.shard_count:
      raise ValueError(f"shard_index {self.shard_index} is not in 0..{self.shard_count - 1}.")
    if self.documents < self.shard_count:
      raise ValueError(
        f"{self.documents} documents cannot be split over {self.shard_count} loading processes; "
        "give more documents or load with fewer processes."
      )

  def order(self, epoch: int) -> np.ndarray:
    return document_order(
      self.documents,
      shuffle=self.shuffle,
      seed=self.seed,
      epoch=epoch,
      shard_index=self.shard_index,
      shard_count=self.shard_count,
    )

  def fingerprint(self) -> dict[str, Any]:
    # A finished run may be continued for more epochs: no token moves.
    return {k: v for k, v in dataclasses.asdict(self).items() if k != "epochs"}


class StickyRows(grain.IterDataset[Batch]):
  """Batches whose rows go on, from batch to batch, where they stopped.

  Every element is a dict of int32 arrays [B, T]:

    inputs                tokens; 0 on padding
    inputs_position       position in the document, 0, 1, 2, ...; 0 on padding
    inputs_segmentation   n for the n-th document within this row of this batch; 0 on padding
    targets               next token of the same document, also across the end of the segment
    targets_position      the same as inputs_position
    targets_segmentation  inputs_segmentation where there is a target, else 0
    document_index        index into `source`; -1 on padding (only `with_document_index`)

  Every token of a document but its first is a target exactly once.  A row whose document is
  exhausted takes the next one of the shared order; rows pull in row order, row 0 first.

  Args:
    source: the documents; `source[i]` has `id` and `text`.
    tokenize: text to token ids, called whenever a row starts (or resumes) a document.
    rows: B.
    segment_length: T, a multiple of W.
    window_length: W.
    shuffle: read the documents of every epoch in an order drawn from (seed, epoch).
    seed: of that order.
    epochs: how often the documents are read, None for ever; when they run out, rows are padded
      and the iteration ends with the last batch that holds a token.
    shard_index: which of the `shard_count` parts of the order is read here.
    shard_count: number of processes that read.
    with_document_index: adds the key `document_index`.

  Raises:
    ValueError: here for sizes that do not fit together, while iterating for a document of less
      than two tokens.
  """

  def __init__(
    self,
    source: RandomAccessDataSource[Document],
    tokenize: Callable[[str], Sequence[int] | np.ndarray],
    *,
    rows: int,
    segment_length: int,
    window_length: int,
    shuffle: bool,
    seed: int,
    epochs: int | None,
    shard_index: int = 0,
    shard_count: int = 1,
    with_document_index: bool = False,
  ):
    # As a parent of this dataset, because MaxText asks for one when it closes a dataset.
    super().__init__(grain.MapDataset.source(source))
    self.source = source
    self.tokenize = tokenize
    self.with_document_index = with_document_index
    self.plan = _Plan(
      rows=rows,
      segment_length=segment_length,
      window_length=window_length,
      shuffle=shuffle,
      seed=seed,
      epochs=epochs,
      shard_index=shard_index,
      shard_count=shard_count,
      documents=len(source),
    )

  def __iter__(self) -> "StickyRowsIterator":
    return StickyRowsIterator(self)

  def __str__(self) -> str:
    return f"StickyRows({self.plan})"


class _Reading(NamedTuple):
  """The document that a row is reading, and how far it is."""

  document: int
  tokens: np.ndarray
  offset: int


class StickyRowsIterator(grain.DatasetIterator[Batch]):
  """Iterator of `StickyRows`.  Its state is small and JSON-able; resuming is exact."""

  def __init__(self, dataset: StickyRows):
    super().__init__()
    self._dataset = dataset
    self._plan = dataset.plan
    self._readings: list[_Reading | None] = [None] * self._plan.rows
    self._epoch = 0
    self._next = 0
    self._order = self._plan.order(0)

  @property
  def _parent(self) -> grain.DatasetIterator:
    # Grain asserts here that there is a parent, and MaxText, when it closes an iterator, asks with
    # hasattr(), which an AssertionError breaks through.
    raise AttributeError("StickyRowsIterator reads documents and has no parent iterator")

  def __next__(self) -> Batch:
    self._assert_not_closed()
    shape = (self._plan.rows, self._plan.segment_length)
    batch = {key: np.zeros(shape, np.int32) for key in _KEYS}
    if self._dataset.with_document_index:
      batch["document_index"] = np.full(shape, -1, np.int32)
    for row in range(self._plan.rows):
      self._fill(row, batch)
    if not batch["inputs_segmentation"].any():
      raise StopIteration
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where every row is (a row between two documents: document -1), and what comes next."""
    idle = {"document": -1, "offset": 0, "tokens": 0}
    return {
      "fingerprint": self._plan.fingerprint(),
      "epoch": self._epoch,
      "next": self._next,
      "rows": [
        idle if r is None else {"document": r.document, "offset": r.offset, "tokens": len(r.tokens)}
        for r in self._readings
      ],
    }

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to `state`; raises ValueError if it was saved with other data, sizes or tokenizer."""
    saved = state["fingerprint"]
    for name, value in self._plan.fingerprint().items():
      if saved.get(name) != value:
        raise ValueError(
          f"The data state was saved with {name}={saved.get(name)} but this run has "
          f"{name}={value}; set it back, or start a new run from the saved parameters."
        )
    readings = [self._resume(**row) for row in state["rows"]]
    self._readings = readings
    self._epoch, self._next = state["epoch"], state["next"]
    self._order = self._plan.order(self._epoch)

  def _fill(self, row: int, batch: Batch) -> None:
    """Writes the next T tokens of `row`, starting documents at window boundaries."""
    segment, window = self._plan.segment_length, self._plan.window_length
    start, nth = 0, 0
    while start < segment:
      reading = self._readings[row] or self._take()
      if reading is None:
        return
      nth += 1
      stop = min(start + len(reading.tokens) - reading.offset, segment)
      offset = reading.offset + stop - start
      _write(batch, row, start, nth, reading, offset)
      done = offset == len(reading.tokens)
      self._readings[row] = None if done else reading._replace(offset=offset)
      start = -(-stop // window) * window

  def _take(self) -> _Reading | None:
    """The next document of the shared order, or None at the end of the last epoch."""
    if self._next == len(self._order):
      if self._plan.epochs is not None and self._epoch + 1 >= self._plan.epochs:
        return None
      self._epoch, self._next = self._epoch + 1, 0
      self._order = self._plan.order(self._epoch)
      logging.info("Epoch %d of the documents begins.", self._epoch + 1)
    document = int(self._order[self._next])
    self._next += 1
    return _Reading(document, self._tokens(document), 0)

  def _resume(self, document: int, offset: int, tokens: int) -> _Reading | None:
    if document < 0:
      return None
    reading = _Reading(document, self._tokens(document), offset)
    if len(reading.tokens) != tokens:
      raise ValueError(
        f"Document {self._dataset.source[document].id} has {len(reading.tokens)} tokens but had "
        f"{tokens} when the data state was saved; resume with the same files and tokenizer."
      )
    return reading

  def _tokens(self, index: int) -> np.ndarray:
    document = self._dataset.source[index]
    tokens = np.asarray(self._dataset.tokenize(document.text), np.int32)
    if len(tokens) < 2:
      raise ValueError(
        f"Document {document.id} has {len(tokens)} tokens, and a document needs 2 to have a "
        "target; remove it."
      )
    return tokens


def _write(batch: Batch, row: int, start: int, nth: int, reading: _Reading, end: int) -> None:
  """Writes tokens reading.offset..end of a document to `batch[row, start:]`."""
  inputs = reading.tokens[reading.offset : end]
  targets = reading.tokens[reading.offset + 1 : end + 1]
  here = slice(start, start + len(inputs))
  aimed = slice(start, start + len(targets))
  batch["inputs"][row, here] = inputs
  batch["targets"][row, aimed] = targets
  batch["inputs_segmentation"][row, here] = nth
  batch["targets_segmentation"][row, aimed] = nth
  for key in ("inputs_position", "targets_position"):
    batch[key][row, here] = np.arange(reading.offset, end)
  if "document_index" in batch:
    batch["document_index"][row, here] = reading.document
