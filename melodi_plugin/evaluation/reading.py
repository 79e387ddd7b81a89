"""Reads whole documents with a checkpoint: the loss of every token, with memory carried.

A stock decoder carries nothing: it reads a document in chunks of T tokens, each alone, or each with
the half before it, which it reads again (`read_chunk`).

The rows of a batch read one document after another (`StickyRows`), so memory always belongs to the
document that its row is reading.  Perplexity and the recall probes are both made of what `Scorer`
yields.  Letters: B rows, T segment tokens, N tokens of a document.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.linen import logical_axis_rules
from jax.sharding import PartitionSpec

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.data.rows import StickyRows
from melodi_plugin.maxtext.loading import batch_sharding, load, mesh_of, with_rows
from melodi_plugin.maxtext.pipeline import EndTogether, tokens_per_batch
from melodi_plugin.maxtext.weights import find_checkpoint

_FIELDS = ("inputs", "inputs_position", "inputs_segmentation", "targets", "targets_segmentation")


class ScoredDocument(NamedTuple):
  """A document that was read to its end."""

  index: int  # in the source
  id: str
  text: str
  tokens: np.ndarray  # int32 [N], all of them
  nats: np.ndarray  # float32 [N-1], loss of predicting tokens[i+1] from tokens[:i+1]
  hits: np.ndarray  # bool [N-1], whether tokens[i+1] had the largest logit


def read_batch(
  graphdef: Any, params: Any, memory: Any, rest: Any, batch: dict[str, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], Any]:
  """Nats (B, T) and hits (B, T) of the targets of one batch, and the memory after it.

  Where there is no target, the values mean nothing.
  """
  model = nnx.merge(graphdef, params, memory, rest, copy=True)
  text = (batch["inputs"], batch["inputs_position"], batch["inputs_segmentation"])
  return _scores(_logits(model, *text), batch["targets"]), nnx.state(model, nnx.BatchStat)


def read_chunk(
  graphdef: Any, params: Any, before: jax.Array | None, rest: Any, batch: dict[str, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], jax.Array | None]:
  """As `read_batch` for a stock decoder, in whose batches every document begins a row.

  Args:
    before: the inputs of the batch before, read again where a document goes on; or None.

  Returns:
    What `read_batch` does, with `before` of the next batch in the place of memory.
  """
  tokens, ids = batch["inputs"], batch["inputs_segmentation"]
  goes_on = batch["inputs_position"][:, :1] > 0
  context = 0
  if before is not None:
    context = before.shape[1]
    ids = jnp.concatenate([jnp.broadcast_to(goes_on, before.shape).astype(ids.dtype), ids], axis=1)
    tokens = jnp.concatenate([before, tokens], axis=1)
  first = jnp.where(goes_on, 0, context)
  positions = jnp.maximum(jnp.arange(tokens.shape[1], dtype=tokens.dtype) - first, 0)
  model = nnx.merge(graphdef, params, nnx.State({}), rest, copy=True)
  logits = _logits(model, tokens, positions, ids)[:, context:]
  return _scores(logits, batch["targets"]), None if before is None else batch["inputs"]


def _logits(model: Any, tokens: jax.Array, positions: jax.Array, ids: jax.Array) -> jax.Array:
  logits = model(tokens, positions, decoder_segment_ids=ids, enable_dropout=False)
  return logits.astype(jnp.float32)


def _scores(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
  target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - target, logits.argmax(-1) == targets


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
    self.config = config = with_rows(config, rows)
    self.rows, self.segment = rows, tokens_per_batch(config)
    self.batches_read = 0
    self._mesh = mesh_of(config)
    self._placement = batch_sharding(config, self._mesh)
    graphdef, self._params, memory, self._rest = load(config, self._mesh, path)
    read: Any = read_batch
    if not is_melodi(config):
      read, again = read_chunk, self.segment < config.max_target_length
      memory = jnp.zeros((rows, self.segment), jnp.int32) if again else None
      memory = jax.device_put(memory, self._placement)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, memory)
    self._empty = jax.device_put(jax.tree.map(jnp.zeros_like, memory), shardings)
    # Memory is placed alike before and after a batch, so that the second batch does not compile
    # again; the scores of a row come back to the process that reads the row.
    by_row = jax.sharding.NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
    # Stock layers hold lists, so their graphdef cannot be hashed as a static argument.
    self._step = jax.jit(
      functools.partial(read, graphdef), donate_argnums=1, out_shardings=(by_row, shardings)
    )

  def change_checkpoint(self, path: str) -> None:
    """Goes on with another checkpoint of the same model; raises ValueError as `load` does."""
    self._params = None  # room for the next one
    self._params = load(self.config, self._mesh, path).params

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
    memory = jax.tree.map(jnp.copy, self._empty)
    for batch in EndTogether(batches, self._mesh):
      with jax.set_mesh(self._mesh), logical_axis_rules(self.config.logical_axis_rules):
        on_device = jax.device_put({name: batch[name] for name in _FIELDS}, self._placement)
        scores, memory = self._step(self._params, memory, self._rest, on_device)
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
