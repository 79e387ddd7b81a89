"""The rows of one microbatch, in a step that accumulates gradients.

MaxText gives microbatch g of G the rows g, g + G, g + 2G, ... of the batch: so every device keeps
its own.  Memory is that of the whole batch; a microbatch reads and writes its rows of it.
"""

import jax

from melodi_plugin.core.array_typing import Array, Int

MICROBATCH = "microbatch"  # where a decoder finds its number


def part(array: Array, rows: int, axis: int, number: Int[Array, ""]) -> Array:
  """The `rows` rows of a microbatch; `axis` is that of the rows of the batch."""
  return jax.lax.dynamic_index_in_dim(_dealt(array, rows, axis), number, axis + 1, keepdims=False)


def with_part(array: Array, new: Array, axis: int, number: Int[Array, ""]) -> Array:
  """The same array with other values in the rows of a microbatch."""
  dealt = _dealt(array, new.shape[axis], axis)
  dealt = jax.lax.dynamic_update_index_in_dim(dealt, new.astype(array.dtype), number, axis + 1)
  return dealt.reshape(array.shape)


def _dealt(array: Array, rows: int, axis: int) -> Array:
  """Rows and microbatches as two axes."""
  return array.reshape(*array.shape[:axis], rows, -1, *array.shape[axis + 1 :])
