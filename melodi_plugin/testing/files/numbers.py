"""Documents of numbers, of which every word is a token, and rows that read them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from melodi_plugin.data.documents import Document
from melodi_plugin.data.rows import StickyRows

W, T = 4, 12
# Shorter than a window, one window, one more, a multiple of W, of T, longer, the shortest.
LENGTHS = (3, 4, 5, 8, 12, 24, 31, 2, 13, 40)


def source_of(lengths: Sequence[int] = LENGTHS) -> Any:
  """Document i has the tokens 1000 i + 1, 1000 i + 2, ..."""
  return [
    Document(f"d{i}", " ".join(str(1000 * i + j + 1) for j in range(length)))
    for i, length in enumerate(lengths)
  ]


def tokenize(text: str) -> list[int]:
  """The numbers of a text."""
  return [int(token) for token in text.split()]


def rows_of(
  lengths: Sequence[int] = LENGTHS,
  source: Any = None,
  tokenize: Callable[[str], Any] = tokenize,
  **changes: Any,
) -> StickyRows:
  """Three rows that read all documents once, in their order, unless something else is asked for."""
  arguments = {
    "rows": 3,
    "segment_length": T,
    "window_length": W,
    "shuffle": False,
    "seed": 0,
    "epochs": 1,
  }
  return StickyRows(source or source_of(lengths), tokenize, **(arguments | changes))


def assert_equal(batches: Sequence[Any], others: Sequence[Any]) -> None:
  """Compares batches, array by array."""
  assert len(batches) == len(others)
  for one, other in zip(batches, others, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])
