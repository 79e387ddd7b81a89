"""The fingerprint of a model's parameters, to which a memory belongs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from melodi_plugin.core import digests
from melodi_plugin.core.stack import Section
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
  totals, alone = jax.device_get(digests.sums(stacks, rest))
  lines = [
    digests.line(name, array.shape, array.dtype, alone[name]) for name, array in rest.items()
  ]
  for section, arrays, own in zip(sections, stacks, totals, strict=True):
    for name, array in arrays.items():
      lines += [
        digests.line(f"layer/{section.run.first + y}/{name}", array.shape[1:], array.dtype, total)
        for y, total in enumerate(own[name])
      ]
  return digests.of_lines(lines)


def _real(tree: Any) -> dict[str, Any]:
  """The arrays of real numbers of a tree, by their paths."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {name_of(path): leaf for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
