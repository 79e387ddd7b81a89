"""Short-term and long-term memory: explicit state that goes in and comes out.

Memory holds raw tokens of the residual stream, not keys and values, so it does not go stale when
weights change.  Empty slots are zeros.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Int, Rows
from melodi_plugin.core.segments import Windows, reset, select_rows


class LayerMemory(NamedTuple):
  """What one layer remembers.  A layer without one of the two has zero tokens of it."""

  short: Float[Array, "*Y B S D"]  # short-term memory, rewritten at every window
  long: Float[Array, "*Y B M D"]  # long-term queue, oldest token first


class Memory(NamedTuple):
  """What a whole stack remembers, per batch row.

  `short` stacks the layers that have short-term memory and `long` those that have a queue, both
  from the bottom up, so a saved memory does not depend on how layers are scanned.
  """

  short: Float[Array, "Ys B S D"]
  long: Float[Array, "Yl B M D"]
  windows: Int[Array, "B"]  # windows of the current document that memory holds


def empty_memory(config: MelodiConfig, batch: int, dtype=jnp.float32) -> Memory:
  """The memory of `batch` rows that have read nothing."""
  num_short = sum(spec.short_tokens > 0 for spec in config.layers)
  num_long = sum(spec.increment > 0 for spec in config.layers)
  return Memory(
    short=jnp.zeros((num_short, batch, config.short_term_tokens, config.short_width), dtype),
    long=jnp.zeros((num_long, batch, config.queue_tokens, config.long_width), dtype),
    windows=jnp.zeros((batch,), jnp.int32),
  )


def push(queue: Float[Array, "B M D"], increment: Float[Array, "B L D"]) -> Float[Array, "B M D"]:
  """Drops the oldest L tokens of the queue and appends the new ones."""
  return jnp.concatenate([queue[:, increment.shape[1] :], increment.astype(queue.dtype)], axis=1)


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


class Update(NamedTuple):
  """What a closed window leaves behind in one layer."""

  short: Float[Array, "B S D"]  # the short-term memory of the next window
  increment: Float[Array, "B L D"]  # the tokens for the long-term queue


def rewrite[T](old: T, new: T, writes: Rows) -> T:
  """`new`, in the types of `old`, in the rows that read text in this window."""
  return select_rows(writes, jax.tree.map(lambda a, b: b.astype(a.dtype), old, new), old)


def write(memory: LayerMemory, update: Update, writes: Rows) -> LayerMemory:
  """Verb three of a cell: what a closed window does to the memory of its layer."""
  return rewrite(memory, LayerMemory(update.short, push(memory.long, update.increment)), writes)


def replay(long: Float[Array, "B M D"], updates: Update, windows: Windows) -> Float[Array, "B M D"]:
  """The queue after a segment: every window's reset and push, in order (leaves have K first)."""

  def step(long, xs):
    update, window = xs
    long = reset(window.starts, long)
    return rewrite(long, push(long, update.increment), window.writes), None

  return jax.lax.scan(step, long, (updates, windows))[0]


def settle(old: Memory, new: Memory, windows: Windows) -> Memory:
  """The memory to carry to the next segment: a row with a non-finite number keeps its old one.

  "Old" is empty where a document started in this segment: what came before belongs to another.
  """
  restarted = windows.starts.any(0)
  last = jax.tree.map(lambda leaf: leaf[-1], windows)
  new = new._replace(windows=last.held + last.writes.astype(jnp.int32))

  def finite(leaf: Float[Array, "Y B s D"]) -> Rows:
    return jnp.isfinite(leaf).all(axis=(0, 2, 3))

  def by_row(memory: Memory) -> Memory:  # B in front, as `select_rows` wants it
    return memory._replace(
      short=jnp.moveaxis(memory.short, 1, 0), long=jnp.moveaxis(memory.long, 1, 0)
    )

  ok = finite(new.short) & finite(new.long)
  kept = select_rows(ok, by_row(new), reset(restarted, by_row(old)))
  return kept._replace(short=jnp.moveaxis(kept.short, 0, 1), long=jnp.moveaxis(kept.long, 0, 1))
