"""Restores a checkpoint without its memory, or into a model with longer memory or for more rows."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import is_counted
from melodi_plugin.core.memory import Memory, resize
from melodi_plugin.data.place import FromRows
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.decoders.state import row_axis
from melodi_plugin.maxtext.seams.seam import replace
from melodi_plugin.maxtext.weights import mismatch


@contextlib.contextmanager
def _restoring(change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
  """Meanwhile `change` edits what MaxText asks a checkpoint for."""
  from maxtext.common import checkpointing

  original = checkpointing.train_state_nnx.to_checkpoint_dict

  def to_checkpoint_dict(state):
    target = original(state)
    change(target)
    return target

  undo = replace(checkpointing.train_state_nnx, "to_checkpoint_dict", to_checkpoint_dict)
  try:
    yield
  finally:
    undo()


def _memory(tree: dict[str, Any]) -> dict[str, Any]:
  """Where memory lies in a checkpoint's tree: the state of the decoder."""
  for part in ("nnx_aux", "model", "decoder"):
    tree = tree.get(part, {})
  return tree


def of_checkpoint(
  items: Any, *, rows: FromRows | None, queues: bool
) -> contextlib.AbstractContextManager[None]:
  """Memory is restored as it is in the checkpoint; `spread` and `fit` come next.

  Args:
    items: the folder of the checkpoint.
    rows: which of the checkpoint's rows go on; if there are none, memory keeps its zeros.
    queues: whether long-term memory may be a queue; that of a user's system need not.

  Raises, when the checkpoint is asked:
    UserError: if it holds other arrays than the configuration describes.
  """
  import orbax.checkpoint as ocp

  metadata: Any = ocp.PyTreeCheckpointer().metadata(items)
  tree = metadata.item_metadata.tree
  stored = _memory(tree).get("memory_long")

  def change(target: dict[str, Any]) -> None:
    memory = _memory(target)
    for name in [name for name in memory if name.startswith("memory_")]:
      if not rows:
        del memory[name]
      elif None in rows and name in _memory(tree):
        memory[name] = _with_rows_of(_memory(tree)[name], memory[name], row_axis(name))
    if rows and queues and stored is not None and "memory_long" in memory:
      wanted = memory["memory_long"]
      *layers_and_rows, _, width = wanted.shape
      shape = (*layers_and_rows, stored.shape[2], width)
      memory["memory_long"] = jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=wanted.sharding)
    _check(items, tree, target, goes_on=bool(rows))
    _say_types(items, tree, target)

  return _restoring(change)


def _with_rows_of(stored: Any, wanted: Any, axis: int) -> jax.ShapeDtypeStruct:
  """The same array for as many rows as are stored; they may be too few for all devices."""
  shape = (*wanted.shape[:axis], stored.shape[axis], *wanted.shape[axis + 1 :])
  everywhere = jax.sharding.NamedSharding(wanted.sharding.mesh, jax.sharding.PartitionSpec())
  return jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=everywhere)


_KEEP = {
  "params": "use the configuration that it was trained with",
  "memory": "keep the rows of the batch, melodi_window_length, caches and sinks, and "
  "melodi_reference_defects",
  "opt_state": "keep opt_type",
}


def _check(items: Any, there: dict[str, Any], here: dict[str, Any], *, goes_on: bool) -> None:
  """The checkpoint must hold what it is asked for."""
  for group, keep in _KEEP.items():
    if group == "memory" and not goes_on:
      continue
    of_both = (_shapes(tree, group) for tree in (there, here))
    different, first = mismatch(*of_both)
    if different:
      raise UserError(
        f"{items}, from which this run goes on, does not fit the configuration: {first}; {keep}, "
        "or choose another run_name."
      )


def _say_types(items: Any, there: dict[str, Any], here: dict[str, Any]) -> None:
  """Arrays are converted where they are kept in another precision than before."""
  for group in _KEEP:
    old, new = (_arrays(tree, group) for tree in (there, here))
    names = [name for name in new if name in old and old[name].dtype != new[name].dtype]
    if names:
      logging.warning(
        "%s holds %s in %s and this run keeps it in %s (%d such arrays): the run goes on from "
        "converted values, and not bit for bit.",
        items,
        names[0],
        old[names[0]].dtype,
        new[names[0]].dtype,
        len(names),
      )


def _shapes(tree: dict[str, Any], group: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of one group of arrays."""
  return {name: tuple(leaf.shape) for name, leaf in _arrays(tree, group).items()}


def _arrays(tree: dict[str, Any], group: str) -> dict[str, Any]:
  """One group of arrays by their names."""
  if group == "memory":
    return {name: leaf for name, leaf in _memory(tree).items() if name.startswith("memory_")}
  leaves = jax.tree.leaves_with_path({group: tree.get(group, {})})
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
    if hasattr(leaf, "shape")
  }


def spread(state: Any, rows: FromRows, like: Any) -> None:
  """Gives restored memory to the rows that go on, and zeros to those that begin."""
  index = jnp.asarray([row or 0 for row in rows])
  goes_on = jnp.asarray([row is not None for row in rows])
  decoder, wanted = state["model"]["decoder"], like["model"]["decoder"]
  for name in [name for name in decoder if name.startswith("memory_")]:
    array, axis = decoder[name].get_value(), row_axis(name)

    def dealt(array: jax.Array, axis: int = axis) -> jax.Array:
      taken = jnp.take(array, index, axis)
      flags = goes_on.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
      return jnp.where(flags, taken, jnp.zeros_like(taken))

    sharding = wanted[name].get_value().sharding
    decoder[name].set_value(jax.jit(dealt, out_shardings=sharding)(array))


def fit(state: Any, config: Any) -> None:
  """Cuts or lengthens restored queues if melodi_long_term_windows has changed."""
  sizes, decoder = MelodiConfig.from_maxtext(config), state["model"]["decoder"]
  if "memory_long" not in decoder or not is_counted(config):
    return  # what a user's system stores need not be a queue
  long, windows = (decoder[f"memory_{field}"].get_value() for field in ("long", "windows"))
  if not isinstance(long, jax.Array) or long.shape[2] == sizes.queue_tokens:
    return  # it was left out, or fits
  logging.warning(
    "Queues hold %d tokens in the checkpoint and %d in this run: their newest tokens are kept.",
    long.shape[2],
    sizes.queue_tokens,
  )
  new = resize(Memory(long, long, windows), sizes.queue_tokens, sizes.long_term_increment)
  decoder["memory_long"].set_value(jax.device_put(new.long, long.sharding))
  decoder["memory_windows"].set_value(jax.device_put(new.windows, windows.sharding))
