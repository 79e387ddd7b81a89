"""Attention to many slots by JAX's own kernel for TPUs, which has logits on the chip only.

FlashAttention (Dao et al. 2022), `jax.experimental.pallas.ops.tpu.flash_attention`.
"""

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Heads

_LANES = 128  # sizes of blocks are multiples of it
_BLOCK = 512  # the largest block of queries, and of slots


def fits(query: Heads, key: Array, value: Array) -> bool:
  """Whether the kernel may stand here, if this is compiled for a TPU.

  XLA cannot partition it, so all of the mesh must have been mapped; products of float32 have the
  precision that JAX is told to have only outside of kernels; and heads fill whole lanes or few.
  """
  mapped = jax.sharding.get_abstract_mesh().are_all_axes_manual
  typed = query.dtype == key.dtype == value.dtype == jnp.bfloat16
  size = query.shape[-1]
  return mapped and typed and (size < _LANES or not size % _LANES)


def flash_attention(
  query: Heads,
  key: Float[Array, "B s G H"],
  value: Float[Array, "B s G H"],
  scale: Float[Array, "N"],
  visible: Bool[Array, "B s"],
) -> Heads:
  """softmax(q.k * scale) v over visible slots, with N query heads in G groups of heads of keys.

  Zeros where nothing is visible.  Queries are rounded to their own type after scaling.
  """
  from jax.experimental.pallas.ops.tpu import flash_attention as pallas  # only where it is used

  batch, count, heads, size = query.shape
  groups = key.shape[2]
  scaled = (query.astype(scale.dtype) * scale[:, None]).astype(query.dtype)
  # All queries see the same slots, so those of all heads of a group stand in one row.
  grouped = scaled.reshape(batch, count, groups, heads // groups, size)
  rows = jnp.moveaxis(grouped, 1, 3).reshape(batch, groups, -1, size)
  rows, keys, values = (
    _padded(own, 2) for own in (rows, jnp.moveaxis(key, 1, 2), jnp.moveaxis(value, 1, 2))
  )
  segments = pallas.SegmentIds(
    jnp.ones((batch, rows.shape[2]), jnp.int32), _padded(visible.astype(jnp.int32), 1)
  )
  blocks = pallas.BlockSizes(**_blocks(_block(rows.shape[2]), _block(keys.shape[2])))
  out = pallas.flash_attention(rows, keys, values, None, segments, block_sizes=blocks)
  out = out[:, :, : count * heads // groups].reshape(batch, groups, -1, count, size)
  out = jnp.moveaxis(out, 3, 1).reshape(query.shape)
  return jnp.where(visible.any(-1)[:, None, None, None], out, 0)


def _padded(x: Array, axis: int) -> Array:
  """With zeros behind, up to whole lanes."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, -x.shape[axis] % _LANES)
  return jnp.pad(x, widths)


def _block(length: int) -> int:
  """The largest block of which `length` is a multiple."""
  return max(size for size in range(_LANES, _BLOCK + 1, _LANES) if not length % size)


def _blocks(queries: int, slots: int) -> dict[str, int]:
  """The kernel's block sizes by name, forward and backward."""
  forward = {"block_q": queries, "block_k_major": slots, "block_k": slots, "block_b": 1}
  to_slots = {"block_q_major_dkv": queries, "block_q_dkv": queries}
  to_slots |= {"block_k_major_dkv": slots, "block_k_dkv": slots}
  to_queries = {"block_q_dq": queries, "block_k_major_dq": slots, "block_k_dq": slots}
  return forward | to_slots | to_queries
