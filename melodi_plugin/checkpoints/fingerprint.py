"""Fingerprints of what a memory belongs to: the parameters of a model, and its tokenizer."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.core.array_typing import Array
from melodi_plugin.core.stack import Section
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.output.files import read_file
from melodi_plugin.training.parameter_paths import name_of


def of_model(sections: Sequence[Section], others: Any) -> str:
  """Fingerprint of all parameters; one that differs in one bit has another.

  It depends neither on how layers are scanned, nor on the devices that arrays lie on: layers are
  counted one by one, and all sums are of integers.  Arrays that hold no real numbers are none of
  the model's weights (states of random generators), and are not looked at.

  Args:
    sections: the stack.
    others: a tree of the parameters besides: embedding, final norm, head, summary tokens.
  """
  stacks, rest = [_real(section.params) for section in sections], _real(others)
  totals, alone = jax.device_get(_sums(stacks, rest))
  lines = [_line(name, array.shape, array.dtype, alone[name]) for name, array in rest.items()]
  for section, arrays, own in zip(sections, stacks, totals, strict=True):
    for name, array in arrays.items():
      lines += [
        _line(f"layer/{section.run.first + y}/{name}", array.shape[1:], array.dtype, total)
        for y, total in enumerate(own[name])
      ]
  return _hash("\n".join(sorted(lines)).encode())


def of_tokenizer(tokenizer: Tokenizer) -> str:
  """Fingerprint of what a tokenizer makes of a text, wherever its files lie."""
  if tokenizer.kind == "huggingface":
    library = tokenizer.library.tokenizer
    fast = json.loads(library.backend_tokenizer.to_str()) if library.is_fast else {}
    # How the last call has padded or cut its texts; these stand in the file too.
    known = {name: part for name, part in fast.items() if name not in ("padding", "truncation")}
    known |= {"vocabulary": library.get_vocab(), "special": library.special_tokens_map}
    content = json.dumps(known, sort_keys=True).encode()
  else:
    content = read_file(tokenizer.path)
  ends = f"{tokenizer.kind} add_bos={tokenizer.add_bos} add_eos={tokenizer.add_eos}"
  return _hash(ends.encode() + b"\0" + content)


def _hash(content: bytes) -> str:
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def _real(tree: Any) -> dict[str, Any]:
  """The arrays of real numbers of a tree, by their paths."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {name_of(path): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


def _line(name: str, shape: tuple[int, ...], dtype: Any, total: Any) -> str:
  return f"{name} {shape} {dtype} {int(total)}"


@jax.jit
def _sums(
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
