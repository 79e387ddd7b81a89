"""Memory as state of a MaxText model: one variable per array, with the axes that it is sharded by.

Their names are those of `Memory`: memory_short, memory_long, memory_windows; where a memory is a
tree of arrays, memory_long_a, memory_long_b and so on.  Checkpoints hold these names.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core import stack
from melodi_plugin.systems.table import empty_memory, stored

Axes = tuple[str | None, ...]


class MelodiMemory(nnx.BatchStat):
  """Memory as model state.

  A BatchStat, because MaxText carries, saves and restores it, and does not count it as a weight
  that a parameter checkpoint must hold.
  """


def by_name(tree: Any) -> dict[str, Any]:
  """The leaves of a memory by the names of their variables."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="_")  # noqa: E731
  return {f"memory_{name(path)}": leaf for path, leaf in leaves}


def with_names[T](tree: T, replace: Callable[[str, Any], Any]) -> T:
  """The same tree with other leaves, made of their names and of what they were."""
  leaves = [replace(name, leaf) for name, leaf in by_name(tree).items()]
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def memory_axes(config: MelodiConfig) -> dict[str, Axes]:
  """The logical axes of every variable."""
  arrays = by_name(stack.stored(stored(config)))
  rows = "activation_batch"
  axes: dict[str, Axes] = {name: (None, rows, *leaf.axes[1:]) for name, leaf in arrays.items()}
  axes["memory_windows"] = (rows,)
  return axes


def row_axis(name: str) -> int:
  """Which axis of a variable is that of rows; where there are layers, theirs is the first."""
  return 0 if name == "memory_windows" else 1


def empty_variables(config: MelodiConfig, batch: int, dtype: Any) -> dict[str, jax.Array]:
  """What the variables begin with; Orbax does not save arrays without elements."""
  memory = empty_memory(config, batch, jnp.dtype(dtype))
  return {name: array for name, array in by_name(memory).items() if array.size}
