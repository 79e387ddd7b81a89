"""Which document a batch row reads next: a function of the row alone.

Rows are numbered over the whole batch, whatever process reads them.  Nothing here depends on the
number of processes, so hosts can be added or taken away between two runs, and every document is
read by exactly one row in every epoch.

Letters: B rows of the whole batch.
"""

import dataclasses
import functools
import heapq
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class DocumentOrder:
  """The k-th document of every row.

  For ever (`epochs` is None): the epochs are laid end to end, each in its own order, and row b
  reads every B-th document from the b-th on.

  Finite: rows must also end together, since a row that has ended is padding until the last one
  has.  So every document goes to the row with the least text so far, and the documents at the end
  come longest first.

  Attributes:
    documents: number of documents.
    rows: B.
    shuffle: read every epoch in an order drawn from (seed, epoch).
    seed: of that order.
    epochs: how often every document is read; None is for ever.
    sizes: bytes (or tokens) of every document, int64 [documents]; None takes all as equal.
  """

  documents: int
  rows: int
  shuffle: bool
  seed: int
  epochs: int | None
  sizes: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  def __post_init__(self):
    for name in ("rows", "documents", "epochs"):
      value = getattr(self, name)
      if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1.")

  def document(self, row: int, k: int) -> int | None:
    """Index of the k-th document (from 0) of `row`; None after its last."""
    if self.epochs is None:
      epoch, place = divmod(row + k * self.rows, self.documents)
      return int(self._epoch(epoch)[place])
    read = self._lists[row]
    return int(read[k]) if k < len(read) else None

  def epoch(self, row: int, k: int) -> int:
    """Epoch (from 0) that the k-th document of `row` belongs to, if reading goes on for ever."""
    return (row + k * self.rows) // self.documents

  @functools.cached_property
  def _lists(self) -> list[np.ndarray]:
    assert self.epochs is not None
    stream = np.concatenate([self._epoch(epoch) for epoch in range(self.epochs)])
    sizes = np.ones(self.documents, np.int64) if self.sizes is None else self.sizes
    return share_out(longest_last(stream, sizes, self.rows), sizes, self.rows)

  def _epoch(self, epoch: int) -> np.ndarray:
    return _epoch_order(self.documents, self.shuffle, self.seed, epoch)


@functools.lru_cache(maxsize=4)  # rows are at most an epoch or two apart
def _epoch_order(documents: int, shuffle: bool, seed: int, epoch: int) -> np.ndarray:
  if not shuffle:
    return np.arange(documents)
  return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(documents)


def longest_last(stream: np.ndarray, sizes: np.ndarray, rows: int) -> np.ndarray:
  """`stream` with its end sorted, longest document first.

  The end is as much text as `rows` documents of the greatest length: enough to even out what the
  rows have read before, and little enough that the order before it stays as it was drawn.
  """
  text = np.cumsum(sizes[stream][::-1])
  tail = min(int(np.searchsorted(text, rows * sizes.max())) + 1, len(stream))
  head, end = np.split(stream, [len(stream) - tail])
  return np.concatenate([head, end[np.argsort(-sizes[end], kind="stable")]])


def share_out(stream: Sequence[int] | np.ndarray, sizes: np.ndarray, rows: int) -> list[np.ndarray]:
  """Gives the documents of `stream`, in order, each to the row with the least text so far."""
  lists: list[list[int]] = [[] for _ in range(rows)]
  loads = [(0, row) for row in range(rows)]
  for document in stream:
    load, row = heapq.heappop(loads)
    lists[row].append(int(document))
    # Even a document whose length is not known adds to the load of its row.
    heapq.heappush(loads, (load + max(int(sizes[document]), 1), row))
  return [np.asarray(read, np.int64) for read in lists]
