"""Digests of arrays: one bit, or one place, makes another; devices and their number do not."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.core.array_typing import Array


def of_arrays(arrays: Mapping[str, Array]) -> str:
  """The digest of named arrays of real numbers."""
  totals = jax.device_get(sums([], dict(arrays))[1])
  return of_lines(line(name, leaf.shape, leaf.dtype, totals[name]) for name, leaf in arrays.items())


def of_lines(lines: Any) -> str:
  """The digest of lines of text, in whatever order they come."""
  return of_bytes("\n".join(sorted(lines)).encode())


def of_bytes(content: bytes) -> str:
  """The digest of bytes, as text."""
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def line(name: str, shape: tuple[int, ...], dtype: Any, total: Any) -> str:
  """What is said of one array."""
  return f"{name} {shape} {dtype} {int(total)}"


@jax.jit
def sums(
  layers: list[dict[str, Array]], others: dict[str, Array]
) -> tuple[list[dict[str, Array]], dict[str, Array]]:
  """The sum of every array, layer by layer where layers are its first axis."""
  return jax.tree.map(jax.vmap(_sum), layers), jax.tree.map(_sum, others)


def _sum(array: Array) -> Array:
  """The sum mod 2^32 of a hash of every number's bits and of its place."""
  bits = _bits(array)
  place = jnp.zeros((), jnp.uint32)
  for axis, length in enumerate(bits.shape):
    own = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    place = place * np.uint32(length) + own
  return _mixed(bits ^ _mixed(place)).sum(dtype=jnp.uint32)


def _bits(array: Array) -> Array:
  """Every number's bits as uint32; a wider number has several, in an axis behind the others."""
  size = min(array.dtype.itemsize, 4)
  return jax.lax.bitcast_convert_type(array, f"uint{8 * size}").astype(jnp.uint32)


def _mixed(x: Array) -> Array:
  """A permutation of the uint32 in which every bit decides on all others."""
  for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
    x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
  return x ^ (x >> np.uint32(16))
