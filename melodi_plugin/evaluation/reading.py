"""Reads whole documents with a checkpoint: the loss of every token, with memory carried.

A stock decoder carries nothing: it reads a document in chunks of T tokens, each alone, or each with
the half before it, which it reads again.

The rows of a batch read one document after another (`StickyRows`), so memory always belongs to the
document that its row is reading.  Perplexity and the recall probes are both made of what `Scorer`
yields.  Letters: B rows, T segment tokens, N tokens of a document.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from melodi_plugin.data.rows import StickyRows
from melodi_plugin.maxtext.loading import load, mesh_of, with_rows
from melodi_plugin.maxtext.pipeline import EndTogether
from melodi_plugin.maxtext.steps import Reader
from melodi_plugin.maxtext.weights import find_checkpoint


class ScoredDocument(NamedTuple):
  """A document that was read to its end."""

  index: int  # in the source
  id: str
  text: str
  tokens: np.ndarray  # int32 [N], all of them
  nats: np.ndarray  # float32 [N-1], loss of predicting tokens[i+1] from tokens[:i+1]
  hits: np.ndarray  # bool [N-1], whether tokens[i+1] had the largest logit


class Scorer:
  """A checkpoint that reads documents; the model is compiled once, for all of them.

  Attributes:
    rows: B of the batches that `score` reads.
    segment: tokens of a row that a batch adds: T, or half of it if the others are read again.
    batches_read: by the last `score`, as far as it has come.
  """

  def __init__(self, config: Any, path: str | None = None, *, rows: int):
    """Loads `path`, by default the one checkpoint of `load_parameters_path`; raises ValueError."""
    if path is None:
      path = find_checkpoint(config.load_parameters_path)
    own = with_rows(config, rows)
    mesh = mesh_of(own)
    self._reader = Reader(own, mesh, load(own, mesh, path))
    self.rows, self.segment = rows, self._reader.segment
    self.batches_read = 0

  def change_checkpoint(self, path: str) -> None:
    """Goes on with another checkpoint of the same model; raises ValueError as `load` does."""
    self._reader.params = None  # room for the next one
    self._reader.params = load(self._reader.config, self._reader.mesh, path).params

  def score(
    self, batches: StickyRows, on_tokens: Callable[[int], None] = lambda count: None
  ) -> Iterator[ScoredDocument]:
    """Reads all documents, every row with empty memory at first.

    Args:
      batches: as `make_document_batches` makes them, of as many rows.
      on_tokens: told after every batch how many tokens were read.

    Yields:
      Every document that this process reads, once its last token is read; their order
      depends on the rows.

    Raises:
      ValueError: for a broken document.
      AssertionError: if a token was read twice or not at all.
    """
    collector = _Collector(batches)
    self.batches_read = 0
    for batch, scores in _one_behind(self._run(batches)):
      batch, (nats, hits) = jax.tree.map(_own_rows, (batch, scores))
      self.batches_read += 1
      on_tokens(int((batch["inputs_segmentation"] > 0).sum()))
      yield from collector.add(batch, nats, hits)
    collector.end()

  def _run(self, batches: StickyRows) -> Iterator[tuple[Any, Any]]:
    memory = self._reader.empty()
    for batch in EndTogether(batches, self._reader.mesh):
      scores, memory = self._reader.read(memory, batch)
      yield batch, scores


def _own_rows(array: jax.Array) -> np.ndarray:
  """The rows of a global array that lie on this process's devices."""
  shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data) for shard in shards])


def _one_behind(items: Iterable[Any]) -> Iterator[Any]:
  """Yields an item once the next was asked for, so that tokenizing and the device overlap."""
  held = []
  for item in items:
    held.append(item)
    if len(held) > 1:
      yield held.pop(0)
  yield from held


class _Collector:
  """Puts the pieces of documents, which lie in rows of batches, together again."""

  def __init__(self, batches: StickyRows):
    self._source = batches.source
    self._pieces: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    self._read: dict[int, int] = {}

  def add(
    self, batch: dict[str, np.ndarray], nats: np.ndarray, hits: np.ndarray
  ) -> Iterator[ScoredDocument]:
    """Takes one batch and what the model made of it, (B, T); yields what ends in it."""
    for row, segment_ids in enumerate(batch["inputs_segmentation"]):
      for nth in range(1, int(segment_ids.max()) + 1):
        here = np.flatnonzero(segment_ids == nth)
        index = int(batch["document_index"][row, here[0]])
        self._check_order(index, batch["inputs_position"][row, here])
        # The last token of a document, and no other, has no target.
        aimed = here[batch["targets_segmentation"][row, here] > 0]
        piece = (batch["inputs"][row, here], nats[row, aimed], hits[row, aimed])
        self._pieces.setdefault(index, []).append(piece)
        if len(aimed) < len(here):
          yield self._finish(index)

  def end(self) -> None:
    """Raises AssertionError if a document has not ended."""
    if self._pieces:
      raise AssertionError(f"documents {sorted(self._pieces)} were not read to their end")

  def _check_order(self, index: int, positions: np.ndarray) -> None:
    first = self._read.get(index, 0)
    if not np.array_equal(positions, np.arange(first, first + len(positions))):
      raise AssertionError(f"document {index} goes on at {positions[0]}, {first} were read")
    self._read[index] = first + len(positions)

  def _finish(self, index: int) -> ScoredDocument:
    tokens, nats, hits = map(np.concatenate, zip(*self._pieces.pop(index), strict=True))
    del self._read[index]
    if len(nats) != len(tokens) - 1:
      raise AssertionError(f"document {index}: {len(nats)} losses for {len(tokens)} tokens")
    document = self._source[index]
    return ScoredDocument(index, document.id, document.text, tokens, nats, hits)
