"""A parameter's path as text."""

from collections.abc import Sequence
from typing import Any

import jax


def name_of(path: Sequence[Any]) -> str:
  """decoder/layers/mlp/wi_0/kernel, from JAX's path of a leaf or from flax's of a variable."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")
