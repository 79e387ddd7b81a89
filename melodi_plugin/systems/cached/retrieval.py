"""Attention to the k best of many pairs (SEMANTICS 4.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.config.layers import Neighbors
from melodi_plugin.core.array_typing import Array, Float, Heads, Int
from melodi_plugin.core.attention import MASKED_LOGIT, attention_weights, wide_dtype
from melodi_plugin.core.cell import KeyValues

BLOCK = 4096  # slots whose scores are computed at once


def retrieve(
  query: Heads, slots: KeyValues, temperature: Float[Array, "N"], neighbors: Neighbors
) -> Heads:
  """Every query's attention to the `neighbors.count` slots that it likes best.

  What is retrieved learns nothing: no gradient reaches keys and values.  A query that finds nothing
  gets zeros.
  """
  key, value = jax.lax.stop_gradient((slots.key, slots.value))
  chosen_BNtk = nearest(jax.lax.stop_gradient(query), slots._replace(key=key), neighbors)

  def pick(leaf_BsNH: Float[Array, "B s N H"]) -> Float[Array, "B N t k H"]:
    by_head = jnp.moveaxis(leaf_BsNH, 2, 1)  # B N s H
    return jax.vmap(jax.vmap(lambda slots_sH, chosen_tk: slots_sH[chosen_tk]))(by_head, chosen_BNtk)

  wide = wide_dtype(query)
  logits = jnp.einsum("BtNH,BNtkH->BNtk", query, pick(key), preferred_element_type=wide)
  logits *= jnp.abs(temperature.astype(wide))[None, :, None, None]
  visible = jax.vmap(lambda row, chosen: row[chosen])(slots.visible, chosen_BNtk)
  logits = jnp.where(visible, logits, MASKED_LOGIT)
  everything = jnp.ones((1, 1, logits.shape[-1]), bool)  # visibility differs from head to head
  weights = attention_weights(logits, everything).astype(value.dtype)
  return jnp.einsum("BNtk,BNtkH->BtNH", weights, pick(value))


class Best(NamedTuple):
  """What was best among the slots seen so far; of equals the first."""

  score: Float[Array, "B N t k"]
  slot: Int[Array, "B N t k"]


def nearest(
  query: Heads, slots: KeyValues, neighbors: Neighbors, block: int = BLOCK
) -> Int[Array, "B N t k"]:
  """The slots with the greatest q.k: exactly, or the best of each of k strided buckets.

  Scores are computed `block` slots at a time: all at once, those of 262,144 slots with 512 queries
  in 8 heads take 4.3 GB a row.  The choice does not depend on it.
  """
  count, total = neighbors.count, slots.key.shape[1]
  # Whole rounds of the buckets, so that a bucket is at the same place in every block.
  block = count * max(1, block // count)
  among = _exactly if neighbors.exact else _by_bucket

  def look(first: Int[Array, ""] | int, length: int) -> Best:
    scores = _scores(query, slots, first, length)
    best = among(scores, count)
    return best._replace(slot=best.slot + first)

  def further(best: Best, first: Int[Array, ""] | int, length: int = block) -> Best:
    return _better(best, look(first, length), neighbors)

  best = look(0, min(block, total))
  starts = jnp.arange(block, total - block + 1, block, dtype=jnp.int32)
  if len(starts):
    best, _ = jax.lax.scan(lambda best, first: (further(best, first), None), best, starts)
  if total > block and total % block:
    best = further(best, total - total % block, total % block)
  return jnp.minimum(best.slot, total - 1)


def _scores(
  query: Heads, slots: KeyValues, first: Int[Array, ""] | int, length: int
) -> Float[Array, "B N t s"]:
  """q.k of `length` slots from `first` on; empty ones only beat those that are invisible."""
  key, visible = (
    jax.lax.dynamic_slice_in_dim(leaf, first, length, axis=1) for leaf in (slots.key, slots.visible)
  )
  scores = jnp.einsum("BtNH,BsNH->BNts", query, key)
  # A slot that nothing has filled is taken only where its bucket has no other.
  filled_BNs = jnp.moveaxis((key != 0).any(-1), 1, 2)
  scores = jnp.where(filled_BNs[:, :, None], scores, MASKED_LOGIT)
  return jnp.where(visible[:, None, None], scores, -jnp.inf)


def _exactly(scores: Float[Array, "B N t s"], count: int) -> Best:
  """The `count` greatest, or all if there are fewer."""
  return Best(*jax.lax.top_k(scores, min(count, scores.shape[-1])))


def _by_bucket(scores: Float[Array, "B N t s"], count: int) -> Best:
  """The greatest of the slots j, j + count, j + 2 * count, … for every j."""
  total = scores.shape[-1]
  rows = -(-total // count)
  padding = ((0, 0), (0, 0), (0, 0), (0, rows * count - total))
  scores = jnp.pad(scores, padding, constant_values=-jnp.inf)
  scores = scores.reshape(*scores.shape[:-1], rows, count)
  row = scores.argmax(-2).astype(jnp.int32)
  return Best(scores.max(-2), row * count + jnp.arange(count, dtype=jnp.int32))


def _better(best: Best, later: Best, neighbors: Neighbors) -> Best:
  """The better of both, which are of earlier and of later slots."""
  if not neighbors.exact:
    beats = later.score > best.score
    return Best(*(jnp.where(beats, new, old) for new, old in zip(later, best, strict=True)))
  both = Best(*(jnp.concatenate(leaves, -1) for leaves in zip(best, later, strict=True)))
  score, place = jax.lax.top_k(both.score, best.score.shape[-1])
  return Best(score, jnp.take_along_axis(both.slot, place, axis=-1))
