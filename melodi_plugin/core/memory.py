"""Memory between segments: explicit state that goes in and comes out.

What a layer stores is up to its memories (`cell.ShortMemory.stored`, `cell.LongMemory.stored`).
Those of this package hold raw tokens of the residual stream, which do not go stale when weights
change; but caches and queues around stock blocks may hold keys and values.  Empty slots are zeros.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Float, Int, Rows
from melodi_plugin.core.segments import Windows, reset, select_rows


@dataclasses.dataclass(frozen=True)
class Stored:
  """One array of a memory, as every batch row has it: zeros before the row has read anything."""

  shape: tuple[int, ...]  # without rows
  axes: tuple[str | None, ...]  # their logical axes in MaxText

  @property
  def size(self) -> int:
    """How many numbers a row has of it."""
    return math.prod(self.shape)


class LayerMemory(NamedTuple):
  """What one layer remembers, or a run of layers: trees of arrays, rows (behind layers) first."""

  short: Any  # short-term memory (B, S, D), rewritten at every window
  long: Any  # for example the long-term queue (B, M, D), oldest token first


class Memory(NamedTuple):
  """What a whole stack remembers, per batch row.

  `short` stacks the layers that have short-term memory and `long` those that have long-term memory,
  both from the bottom up, so a saved memory does not depend on how layers are scanned.
  """

  short: Any  # (Ys, B, S, D)
  long: Any  # (Yl, B, M, D), or a tree of such stacks
  windows: Int[Array, "B"]  # windows of the current document that memory holds


def push(queue: Float[Array, "B M D"], increment: Float[Array, "B L D"]) -> Float[Array, "B M D"]:
  """Drops the oldest L tokens of the queue and appends the new ones."""
  return jnp.concatenate([queue[:, increment.shape[1] :], increment.astype(queue.dtype)], axis=1)


def tokens_left(windows: Int[Array, "B"], each: int, most: int) -> Int[Array, "B"]:
  """Tokens that so many windows have left, `each` of one: exact up to `most`, then at least that.

  The product itself would not fit into an int32 after 2^31 tokens of one document.
  """
  enough = -(-most // max(each, 1))
  return jnp.minimum(windows, enough) * each


def resize(memory: Memory, tokens: int, increment: int) -> Memory:
  """The same memory with queues of another length: the newest tokens, behind empty slots if longer.

  Memory then holds at most the windows that its queues have tokens of.
  """
  stored = memory.long.shape[2]
  kept = min(stored, tokens)
  empty = jnp.zeros(
    (*memory.long.shape[:2], tokens - kept, memory.long.shape[3]), memory.long.dtype
  )
  long = jnp.concatenate([empty, memory.long[:, :, stored - kept :]], axis=2)
  return memory._replace(long=long, windows=jnp.minimum(memory.windows, stored // increment))


def rewrite[T](old: T, new: T, writes: Rows) -> T:
  """`new`, in the types of `old`, in the rows that read text in this window."""
  return select_rows(writes, jax.tree.map(lambda a, b: b.astype(a.dtype), old, new), old)


def replay(
  queue: Float[Array, "B M D"], increments: Float[Array, "K B L D"], windows: Windows
) -> Float[Array, "B M D"]:
  """The queue after a segment: every window's reset and push, but every slot is written once."""
  count, batch, each, width = increments.shape
  before = jnp.cumsum(windows.starts, axis=0, dtype=jnp.int32)
  added = windows.writes & (before == before[-1])  # by the document with which the row ends
  # The tokens that can be in it, in order: an empty one, the old queue, the added increments.
  order = jnp.argsort(~added.T, axis=1, stable=True)
  new = jnp.moveaxis(increments, 0, 1).astype(queue.dtype)
  new = new[jnp.arange(batch, dtype=jnp.int32)[:, None], order].reshape(batch, count * each, width)
  tokens = jnp.concatenate([jnp.zeros_like(queue[:, :1]), queue, new], axis=1)
  old = queue.shape[1]
  pushed = added.sum(0, dtype=jnp.int32)[:, None] * each
  place = 1 + pushed + jnp.arange(old, dtype=jnp.int32)[None]
  emptied = (place <= old) & (before[-1] > 0)[:, None]
  return jax.vmap(lambda row, at: row[at])(tokens, jnp.where(emptied, 0, place))


def settle(old: Memory, new: Memory, windows: Windows) -> Memory:
  """The memory to carry to the next segment: a row with a non-finite number keeps its old one.

  "Old" is empty where a document started in this segment: what came before belongs to another.
  """
  restarted = windows.starts.any(0)
  last = jax.tree.map(lambda leaf: leaf[-1], windows)
  new = new._replace(windows=last.held + last.writes.astype(jnp.int32))

  def rows_first(memory: Memory) -> Memory:
    short, long = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (memory.short, memory.long))
    return memory._replace(short=short, long=long)

  old, new = rows_first(old), rows_first(new)
  ok = jnp.ones_like(restarted)
  for leaf in jax.tree.leaves((new.short, new.long)):
    ok &= jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))
  return rows_first(select_rows(ok, new, reset(restarted, old)))
