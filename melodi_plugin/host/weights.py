"""Stock weights in a model with memory, and the learning rate of what memory adds."""

import functools
from typing import Any

from melodi_plugin.config import is_gate, is_memory_parameter
from melodi_plugin.host.seam import Undo, has_base_block, parameters, replace


def probe_load_params() -> str | None:
  from maxtext.common import checkpointing

  return parameters(
    checkpointing.load_params_from_path, "load_parameters_from_path", "abstract_unboxed_params"
  )


def apply_load_params() -> Undo:
  """A stock checkpoint lacks memory's parameters, which then keep their initial values."""
  from maxtext.common import checkpointing

  original = checkpointing.load_params_from_path

  @functools.wraps(original)
  def load(load_parameters_from_path, abstract_unboxed_params, *args, **kwargs):
    from melodi_plugin import weights

    wanted = abstract_unboxed_params
    if weights.has_memory(wanted) and weights.is_stock(load_parameters_from_path):
      wanted = weights.without_memory(wanted)
      print(
        f"warm start: {load_parameters_from_path} holds a stock model; summary tokens, mixers, "
        "gates and offsets start anew.",
        flush=True,
      )
    return original(load_parameters_from_path, wanted, *args, **kwargs)

  return replace(checkpointing, "load_params_from_path", load)


def probe_optimizer() -> str | None:
  from maxtext.optimizers import optimizers
  from maxtext.utils import train_utils

  if train_utils.optimizers is not optimizers:
    return "is not what train_utils uses"
  return parameters(optimizers.get_optimizer, "config", "learning_rate_schedule")


def apply_optimizer() -> Undo:
  """MaxText has one learning rate for all parameters."""
  import jax
  import optax
  from maxtext.optimizers import optimizers

  original = optimizers.get_optimizer

  @functools.wraps(original)
  def get_optimizer(config, *args, **kwargs):
    optimizer = original(config, *args, **kwargs)
    if not has_base_block(config):
      return optimizer
    memory = config.melodi_memory_learning_rate_multiplier
    gates = config.melodi_gate_learning_rate_multiplier
    if memory == gates == 1:
      return optimizer

    def scale(path: Any, update: Any) -> Any:
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      if not is_memory_parameter(name):
        return update
      return update * (gates if is_gate(name) else memory)

    def update(updates, state, params=None, **extra):
      updates, state = optimizer.update(updates, state, params, **extra)
      return jax.tree_util.tree_map_with_path(scale, updates), state

    # No transformation of its own, so the optimizer's state looks as it does without.
    return optax.GradientTransformationExtraArgs(optimizer.init, update)

  return replace(optimizers, "get_optimizer", get_optimizer)
