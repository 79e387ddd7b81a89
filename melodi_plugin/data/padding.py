"""How much of the batches would be padding, from the lengths of the documents alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from melodi_plugin.data.order import longest_last, share_out


class Padding(NamedTuple):
  """Shares of the slots of all batches of one epoch.

  Attributes:
    tails: in the last window of documents; it depends on the window alone.
    ends: of segments after the last document of a row, until the last row has ended.
  """

  tails: float
  ends: float


def padding(
  lengths: np.ndarray, rows: Sequence[Sequence[int] | np.ndarray], window: int, segment: int
) -> Padding:
  """Padding when row b reads the documents `rows[b]`.

  Args:
    lengths: tokens of every document.
    rows: documents of every row.
    window: W.
    segment: T.
  """
  windows = -(-lengths // window)
  loads = [int(windows[np.asarray(row, int)].sum()) * window for row in rows]
  slots = -(-max(loads) // segment) * segment * len(rows)
  tokens = int(lengths[np.concatenate([np.asarray(row, int) for row in rows])].sum())
  return Padding((sum(loads) - tokens) / slots, 1 - sum(loads) / slots)


def compare(
  lengths: np.ndarray, sizes: np.ndarray, rows: int, window: int, segment: int, seed: int = 0
) -> dict[str, Padding]:
  """Padding of one epoch in random order, for every way in which the rows could be read.

  Args:
    lengths: tokens of every document.
    sizes: what is known of the lengths before the documents are tokenized: bytes.
    rows: B.
    window: W.
    segment: T.
    seed: of the order.
  """
  order = np.random.Generator(np.random.PCG64(seed)).permutation(len(lengths))
  groups = [order[first : first + rows] for first in range(0, len(order), rows)]
  # A batch of documents at a time, until the longest of them is read.
  alone = [padding(lengths, [[int(d)] for d in group], window, segment) for group in groups]
  slots = [len(g) * -(-int(lengths[g].max()) // segment) * segment for g in groups]
  tails, ends = np.average(alone, axis=0, weights=slots)
  return {
    "a batch of documents at a time": Padding(float(tails), float(ends)),
    "every B-th document to a row": padding(
      lengths, [order[row::rows] for row in range(rows)], window, segment
    ),
    "the next document to the row with the least text": padding(
      lengths, share_out(order, sizes, rows), window, segment
    ),
    "the same, and the longest first at the end": padding(
      lengths, share_out(longest_last(order, sizes, rows), sizes, rows), window, segment
    ),
    "on and on, into the next epoch": Padding(
      1 - int(lengths.sum()) / (int((-(-lengths // window)).sum()) * window), 0.0
    ),
  }
