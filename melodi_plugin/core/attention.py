"""The attention core: unit-norm queries and keys, learned temperature, T5 bias, null slot, gate.

SEMANTICS 1.1, 1.3 and 1.5.  Statistics, logits and softmax are at least float32; outputs have the
dtype of the values.
"""

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Int, Rng

NORM_EPSILON = 1e-6
T5_BUCKETS = 32
T5_MAX_DISTANCE = 128
ROTARY_LONGEST = 10_000.0  # half-wavelength
MASKED_LOGIT = -1e30  # far below any logit, also of heads without unit norm
NULL_LOGIT = -1e3  # a slot without value: a query that may see nothing gets zeros


def _wide(x: Float[Array, "*x"]) -> Float[Array, "*x"]:
  return x.astype(wide_dtype(x))


def wide_dtype(x: Float[Array, "*x"]) -> jnp.dtype:
  """The type of statistics, logits and softmax: float32, or wider if x is."""
  return jnp.dtype(x.dtype if x.dtype.itemsize > 4 else jnp.float32)


def rms_norm(x: Float[Array, "*x D"], gain: Float[Array, "D"]) -> Float[Array, "*x D"]:
  """Scale-only RMS norm."""
  wide = _wide(x)
  scale = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + NORM_EPSILON)
  return (wide * scale * gain.astype(wide.dtype)).astype(x.dtype)


def unit_norm(x: Heads) -> Heads:
  """Scales every head's vector to length 1; a zero vector stays zero."""
  wide = _wide(x)
  squares = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
  return (wide * jax.lax.rsqrt(squares + NORM_EPSILON)).astype(x.dtype)


@cache
def t5_buckets(distances: int) -> np.ndarray:
  """T5's unidirectional bucket of every distance below `distances`: exact to 16, log to 128."""
  exact = T5_BUCKETS // 2
  ratio = T5_MAX_DISTANCE / exact
  wide = [math.ceil(exact * ratio ** (j / exact)) for j in range(T5_BUCKETS - exact)]
  return np.searchsorted([*range(1, exact), *wide], np.arange(distances), side="right")


def t5_bias(
  table: Float[Array, "N buckets"], query_place: Int[Array, "B t"], slots: int
) -> Float[Array, "B N t s"]:
  """T5's relative bias of queries at any place of the row [memory | context | summary].

  A key's place is its index among the row's `slots`; keys at or after the query get bucket 0.
  """
  by_distance = _wide(table)[:, t5_buckets(slots + 1)]
  distance = jnp.maximum(query_place[:, :, None] - jnp.arange(slots, dtype=jnp.int32), 0)
  return jnp.moveaxis(by_distance[:, distance], 0, 1)


def t5_bias_of_window(
  table: Float[Array, "N buckets"], queries: int, slots: int
) -> Float[Array, "1 N t s"]:
  """`t5_bias` for the last `queries` places of the row, without gather or scatter.

  The bias depends on i - j only, so its rows are one vector, shifted: repeat the vector and cut it
  into rows that are one element shorter.
  """
  length = queries + slots + 1
  distance = np.maximum(slots - 1 - np.arange(length), 0)
  vector = _wide(table)[:, t5_buckets(slots + 1)[distance]]
  vector = jnp.roll(vector, 1 - queries, axis=1)
  rows = jnp.tile(vector, (1, queries))[:, : queries * (length - 1)]
  return rows.reshape(1, len(table), queries, length - 1)[..., :slots]


def rotate(x: Heads, places: Int[Array, "#B t"]) -> Heads:
  """Rotary positions (SEMANTICS 4.1): half-wavelengths from 1 to below 10000, halves as pairs."""
  half = x.shape[-1] // 2
  half_wavelengths = np.geomspace(1.0, ROTARY_LONGEST, half, endpoint=False)
  wide = wide_dtype(x)
  angles = places[..., None].astype(wide) * jnp.asarray(np.pi / half_wavelengths, wide)
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  first, second = jnp.split(_wide(x), 2, axis=-1)
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x.dtype)


def attention_weights(
  logits: Float[Array, "B N t s"], visible: Bool[Array, "#B #t s"]
) -> Float[Array, "B N t s"]:
  """Softmax over the visible keys and the null slot, whose weight is dropped."""
  logits = jnp.where(visible[:, None], logits, MASKED_LOGIT)
  peak = jnp.max(logits, axis=-1, keepdims=True, initial=NULL_LOGIT)
  peak = jax.lax.stop_gradient(peak)
  weights = jnp.exp(logits - peak)
  return weights / (weights.sum(-1, keepdims=True) + jnp.exp(NULL_LOGIT - peak))


def split_rng(rng: Rng | None, count: int) -> list[Any]:
  """`count` of one, or as many Nones: no dropout."""
  return [None] * count if rng is None else list(jax.random.split(rng, count))


def dropout(rng: Rng | None, rate: float, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
  """Inverted dropout; without random numbers, or at rate 0, the identity."""
  if rng is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(rng, 1.0 - rate, x.shape)
  return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def attend(
  query: Heads,
  key: Float[Array, "B s N H"],
  value: Float[Array, "B s N H"],
  temperature: Float[Array, "N"],
  visible: Bool[Array, "#B #t s"],
  bias: Float[Array, "#B N t s"] | None = None,
  *,
  dropout_rng: Rng | None = None,
  dropout_rate: float = 0.0,
) -> Heads:
  """Attention of t queries over s keys: softmax((q.k + bias) * |temperature|) v.

  The bias is inside the temperature, the mask outside (SEMANTICS 1.1).
  """
  wide = wide_dtype(query)
  logits = jnp.einsum("BtNH,BsNH->BNts", query, key, preferred_element_type=wide)
  if bias is not None:
    logits += bias.astype(wide)
  logits *= jnp.abs(temperature.astype(wide))[None, :, None, None]
  weights = attention_weights(logits, visible)
  weights = dropout(dropout_rng, dropout_rate, weights).astype(value.dtype)
  return jnp.einsum("BNts,BsNH->BtNH", weights, value)


def gate_heads(gate: Float[Array, "N #H"], own: Heads, cross: Heads) -> Heads:
  """The long-term gate: per head, or head and channel, between self- and cross-attention."""
  share = jax.nn.sigmoid(_wide(gate)).astype(own.dtype)[None, None]
  return share * own + (1 - share) * cross
