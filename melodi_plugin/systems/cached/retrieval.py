"""Attention to the k best of many pairs (SEMANTICS 4.3)."""

import jax
import jax.numpy as jnp

from melodi_plugin.config.model import Neighbors
from melodi_plugin.core.array_typing import Array, Float, Heads, Int
from melodi_plugin.core.attention import MASKED_LOGIT, attention_weights, wide_dtype
from melodi_plugin.core.cell import KeyValues


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


def nearest(query: Heads, slots: KeyValues, neighbors: Neighbors) -> Int[Array, "B N t k"]:
  """The slots with the greatest q.k: exactly, or the best of each of k strided buckets."""
  scores = jnp.einsum("BtNH,BsNH->BNts", query, slots.key)
  # A slot that nothing has filled is taken only where its bucket has no other.
  filled_BNs = jnp.moveaxis((slots.key != 0).any(-1), 1, 2)
  scores = jnp.where(filled_BNs[:, :, None], scores, MASKED_LOGIT)
  scores = jnp.where(slots.visible[:, None, None], scores, -jnp.inf)
  count, total = neighbors.count, scores.shape[-1]
  if neighbors.exact:
    return jax.lax.top_k(scores, min(count, total))[1]
  rows = -(-total // count)
  padding = ((0, 0), (0, 0), (0, 0), (0, rows * count - total))
  scores = jnp.pad(scores, padding, constant_values=-jnp.inf)
  best = scores.reshape(*scores.shape[:-1], rows, count).argmax(-2).astype(jnp.int32)
  chosen = best * count + jnp.arange(count, dtype=jnp.int32)
  return jnp.minimum(chosen, total - 1)
