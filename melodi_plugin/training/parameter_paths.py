"""A parameter's path as text."""

from collections.abc import Sequence
from typing import Any

import jax


def name_of(path: Sequence[Any]) -> str:
  """JAX's path of a leaf, or flax's of a variable, as decoder/layers/mlp/wi_0/kernel."""
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")
