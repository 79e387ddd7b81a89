"""Restores a checkpoint without its memory, or into a model whose memory has another length."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.memory import Memory, resize
from melodi_plugin.maxtext.seams.seam import replace


@contextlib.contextmanager
def _restoring(change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
  """Meanwhile `change` edits what MaxText asks a checkpoint for, as far as the decoder's state."""
  from maxtext.common import checkpointing

  original = checkpointing.train_state_nnx.to_checkpoint_dict

  def to_checkpoint_dict(state):
    target = original(state)
    change(target["nnx_aux"]["model"]["decoder"])
    return target

  undo = replace(checkpointing.train_state_nnx, "to_checkpoint_dict", to_checkpoint_dict)
  try:
    yield
  finally:
    undo()


def left_out() -> contextlib.AbstractContextManager[None]:
  """A checkpoint is restored without memory, which then keeps its zeros."""

  def change(decoder: dict[str, Any]) -> None:
    for name in [name for name in decoder if name.startswith("memory_")]:
      del decoder[name]

  return _restoring(change)


def of_stored_length(items: Any) -> contextlib.AbstractContextManager[None]:
  """Queues are restored at the length that they have in the checkpoint; `fit` comes next."""
  import orbax.checkpoint as ocp

  metadata: Any = ocp.PyTreeCheckpointer().metadata(items)
  tree = metadata.item_metadata.tree
  for part in ("nnx_aux", "model", "decoder"):
    tree = tree.get(part, {})
  stored = tree.get("memory_long")

  def change(decoder: dict[str, Any]) -> None:
    if stored is None or "memory_long" not in decoder:
      return
    wanted = decoder["memory_long"]
    *layers_and_rows, _, width = wanted.shape
    if stored.shape[3] != width:
      raise ValueError(
        f"the memory in {items} has slots of {stored.shape[3]} numbers, and this model's have "
        f"{width}: tokens, or keys and values; keep melodi_reference_defects as it was."
      )
    shape = (*layers_and_rows, stored.shape[2], width)
    decoder["memory_long"] = jax.ShapeDtypeStruct(shape, wanted.dtype, sharding=wanted.sharding)

  return _restoring(change)


def fit(state: Any, config: Any) -> None:
  """Cuts or lengthens restored queues if melodi_long_term_windows has changed."""
  sizes, decoder = MelodiConfig.from_maxtext(config), state["model"]["decoder"]
  if "memory_long" not in decoder:
    return
  long, windows = (decoder[f"memory_{field}"].get_value() for field in ("long", "windows"))
  if not isinstance(long, jax.Array) or long.shape[2] == sizes.queue_tokens:
    return  # it was left out, or fits
  new = resize(Memory(long, long, windows), sizes.queue_tokens, sizes.long_term_increment)
  decoder["memory_long"].set_value(jax.device_put(new.long, long.sharding))
  decoder["memory_windows"].set_value(jax.device_put(new.windows, windows.sharding))
