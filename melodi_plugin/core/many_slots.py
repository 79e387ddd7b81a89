"""Attention to many slots whose logits are never in memory all at once.

Online softmax over chunks of slots (Milakov and Gimelshein 2018); the backward pass makes the
logits of a chunk again (Dao et al. 2022).  On TPUs JAX's own kernel, where it fits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.core import flash
from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Rng
from melodi_plugin.core.attention import MASKED_LOGIT, NULL_LOGIT, dropout, wide_dtype

CHUNK = 512  # slots
_FEW = CHUNK * CHUNK  # logits of one head and row that may be in memory


def are_many(queries: int, slots: int) -> bool:
  """Whether `attend_to_many` saves memory: not for a token that is written, nor for few slots."""
  return queries * slots > _FEW


class How(NamedTuple):
  """What an attention does besides.

  Attributes:
    soft_cap: bound of the logits, if there is one.
    null: whether there is a null slot (SEMANTICS 1.1): a query that sees nothing gets zeros.
      Without, what it gets means nothing, and no gradient passes that anyone may use.
    dropout_rate: of weights.
    chunk: slots whose logits are in memory at once.
  """

  soft_cap: float | None = None
  null: bool = False
  dropout_rate: float = 0.0
  chunk: int = CHUNK


def attend_to_many(
  query: Heads,
  key: Float[Array, "B s G H"],
  value: Float[Array, "B s G H"],
  scale: Float[Array, "N"],
  visible: Bool[Array, "B s"],
  how: How,
  rng: Rng | None = None,
) -> Heads:
  """softmax(q.k * scale) v over visible slots, with N query heads in G groups of heads of keys.

  Logits and softmax are at least float32; weights are rounded to the type of the values.
  """
  rng, scale = rng if how.dropout_rate else None, scale.astype(wide_dtype(query))

  def in_chunks(query: Heads, key: Array, value: Array, scale: Array, visible: Array) -> Heads:
    batch, count, heads, size = query.shape
    groups = key.shape[2]
    grouped = query.reshape(batch, count, groups, heads // groups, size)
    scale = scale.reshape(groups, heads // groups)
    out = _attend(how, grouped, key, value, scale, visible, rng)
    return out.astype(value.dtype).reshape(query.shape)

  given = query, key, value, scale, visible
  if rng is None and how.soft_cap is None and flash.fits(query, key, value):
    return jax.lax.platform_dependent(*given, tpu=flash.flash_attention, default=in_chunks)
  return in_chunks(*given)


def _scores(how: How, query: Array, key: Array, scale: Array) -> Float[Array, "B G R t c"]:
  logits = jnp.einsum("BtGRH,BcGH->BGRtc", query, key, preferred_element_type=scale.dtype)
  logits *= scale[None, :, :, None, None]
  return how.soft_cap * jnp.tanh(logits / how.soft_cap) if how.soft_cap else logits


class _Chunks(NamedTuple):
  """The slots in pieces of one length; the last begins earlier, and hides what it repeats."""

  size: int
  count: int
  slots: int

  @classmethod
  def of(cls, how: How, slots: int) -> "_Chunks":
    size = min(how.chunk, slots)
    return cls(size, -(-slots // size), slots)

  def start(self, index: Array) -> Array:
    return jnp.minimum(index * self.size, self.slots - self.size)

  def cut[T](self, tree: T, index: Array) -> T:
    at = self.start(index)
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, at, self.size, 1), tree)

  def seen(self, visible: Bool[Array, "B s"], index: Array) -> Bool[Array, "B 1 1 1 c"]:
    place = self.start(index) + jnp.arange(self.size, dtype=jnp.int32)
    seen = self.cut(visible, index) & (place >= index * self.size)[None]
    return seen[:, None, None, None]

  def joined(self, parts: Float[Array, "C B c G H"]) -> Float[Array, "B s G H"]:
    """The slots of all pieces, each once."""
    repeated = self.size * self.count - self.slots
    *leading, last = jnp.split(parts, [self.count - 1])
    whole = jnp.moveaxis(leading[0], 0, 1).reshape(parts.shape[1], -1, *parts.shape[3:])
    return jnp.concatenate([whole, last[0, :, repeated:]], axis=1)

  @property
  def indices(self) -> Array:
    return jnp.arange(self.count, dtype=jnp.int32)


def _kept(how: How, rng: Rng | None, index: Array, like: Array) -> Array | None:
  """What dropout multiplies the weights of a chunk with."""
  if rng is None:
    return None
  return dropout(jax.random.fold_in(rng, index), how.dropout_rate, jnp.ones_like(like))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how, query, key, value, scale, visible, rng):
  return _forward(how, query, key, value, scale, visible, rng)[0]


def _forward(how, query, key, value, scale, visible, rng):
  chunks, wide = _Chunks.of(how, key.shape[1]), scale.dtype
  batch, count, groups, repeats, size = query.shape
  rows = (batch, groups, repeats, count)

  def step(carry, index):
    peak, total, sums = carry
    own_key, own_value = chunks.cut((key, value), index)
    logits = _scores(how, query, own_key, scale)
    logits = jnp.where(chunks.seen(visible, index), logits, MASKED_LOGIT)
    higher = jnp.maximum(peak, logits.max(-1))
    weights, before = jnp.exp(logits - higher[..., None]), jnp.exp(peak - higher)
    total = total * before + weights.sum(-1)
    kept = _kept(how, rng, index, weights)
    weights = (weights if kept is None else weights * kept).astype(value.dtype)
    new = jnp.einsum("BGRtc,BcGH->BGRtH", weights, own_value, preferred_element_type=wide)
    return (higher, total, sums * before[..., None] + new), None

  peak = jnp.full(rows, NULL_LOGIT if how.null else MASKED_LOGIT, wide)
  start = peak, jnp.full(rows, float(how.null), wide), jnp.zeros((*rows, size), wide)
  (peak, total, sums), _ = jax.lax.scan(step, start, chunks.indices)
  out = jnp.moveaxis(sums / total[..., None], 3, 1)
  return out, (query, key, value, scale, visible, rng, out, peak + jnp.log(total))


def _backward(how, kept_back, given):
  query, key, value, scale, visible, rng, out, log_total = kept_back
  chunks = _Chunks.of(how, key.shape[1])
  mean = jnp.moveaxis((given * out).sum(-1), 1, 3)[..., None]
  given = given.astype(value.dtype)

  def step(carry, index):
    to_query, to_scale = carry
    own_key, own_value = chunks.cut((key, value), index)
    logits, pull = jax.vjp(functools.partial(_scores, how), query, own_key, scale)
    weights = jnp.exp(logits - log_total[..., None])
    weights = jnp.where(chunks.seen(visible, index), weights, 0)
    to_weights = jnp.einsum(
      "BtGRH,BcGH->BGRtc", given, own_value, preferred_element_type=scale.dtype
    )
    dropped = weights
    if (kept := _kept(how, rng, index, weights)) is not None:
      to_weights, dropped = to_weights * kept, weights * kept
    to_value = jnp.einsum("BGRtc,BtGRH->BcGH", dropped.astype(value.dtype), given)
    new_query, to_key, new_scale = pull(weights * (to_weights - mean))
    return (to_query + new_query, to_scale + new_scale), (to_key, to_value)

  start = jnp.zeros_like(query, dtype=scale.dtype), jnp.zeros_like(scale)
  (to_query, to_scale), to_slots = jax.lax.scan(step, start, chunks.indices)
  to_key, to_value = map(chunks.joined, to_slots)
  return (
    to_query.astype(query.dtype),
    to_key,
    to_value,
    to_scale,
    np.zeros(visible.shape, jax.dtypes.float0),
    None if rng is None else np.zeros(rng.shape, jax.dtypes.float0),
  )


_attend.defvjp(_forward, _backward)
