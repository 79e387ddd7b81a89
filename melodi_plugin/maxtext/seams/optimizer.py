"""The paper's optimizer and learning rate, and the learning rate of what memory adds."""

import functools
from typing import Any

from melodi_plugin.config.parameter_names import is_memory_parameter, is_scalar
from melodi_plugin.config.systems import has_base_block, is_melodi
from melodi_plugin.maxtext.seams.seam import Undo, add_member, parameters, probe_member, replace

ADAFACTOR = "adafactor"


def probe_type() -> str | None:
  from maxtext.configs import types

  return probe_member(types.OptimizerType, ADAFACTOR)


def apply_type() -> Undo:
  from maxtext.configs import types

  return add_member(types.OptimizerType, ADAFACTOR)


# -- The learning rate -----------------------------------------------------------------------------


def probe_schedule() -> str | None:
  from maxtext.utils import maxtext_utils, train_utils

  if train_utils.maxtext_utils is not maxtext_utils:
    return "is not what train_utils uses"
  return parameters(maxtext_utils.create_learning_rate_schedule, "config")


def apply_schedule() -> Undo:
  """MaxText's cosine begins after the warm-up, and its learning rate is 0 after the last step."""
  from maxtext.utils import maxtext_utils

  original = maxtext_utils.create_learning_rate_schedule

  @functools.wraps(original)
  def create_learning_rate_schedule(config):
    if getattr(config, "melodi_learning_rate_schedule", "maxtext") != "paper":
      return original(config)
    from melodi_plugin.training.learning_rate import paper_schedule

    steps = config.learning_rate_schedule_steps
    return paper_schedule(
      config.learning_rate,
      config.learning_rate_final_fraction,
      round(steps * config.warmup_steps_fraction),
      steps,
    )

  return replace(maxtext_utils, "create_learning_rate_schedule", create_learning_rate_schedule)


# -- Muon ------------------------------------------------------------------------------------------


def probe_muon() -> str | None:
  from maxtext.optimizers import optimizers
  from maxtext.utils import muon_utils

  found = optimizers.get_muon_weight_dimension_numbers
  if found is not muon_utils.get_muon_weight_dimension_numbers:
    return "is not that of muon_utils"
  return parameters(found, "model", "config", "verbose")


def apply_muon() -> Undo:
  """MaxText tells matrices by the names of its own parameters."""
  from maxtext.optimizers import optimizers

  original = optimizers.get_muon_weight_dimension_numbers

  @functools.wraps(original)
  def get_muon_weight_dimension_numbers(model, config=None, verbose=False):
    if config is None or not is_melodi(config):
      return original(model, config, verbose)
    from melodi_plugin.training.muon import matrix_axes

    stock = None if not has_base_block(config) else original(model, config, verbose)
    return matrix_axes(model, stock)

  return replace(optimizers, "get_muon_weight_dimension_numbers", get_muon_weight_dimension_numbers)


# -- The optimizer ---------------------------------------------------------------------------------


def probe_optimizer() -> str | None:
  from maxtext.optimizers import optimizers
  from maxtext.utils import train_utils

  if train_utils.optimizers is not optimizers:
    return "is not what train_utils uses"
  return (
    parameters(optimizers.get_optimizer, "config", "learning_rate_schedule", "model")
    or parameters(optimizers.skip_step_on_spikes, "inner_opt", "interval", "scaling_factor")
    or parameters(optimizers._get_path_mask_fn, "patterns", "match_returns_true")
  )


def apply_optimizer() -> Undo:
  """MaxText has a closed list of optimizers, and one learning rate for all parameters."""
  from maxtext.optimizers import optimizers

  original = optimizers.get_optimizer

  @functools.wraps(original)
  def get_optimizer(config, learning_rate_schedule, model=None, *args, **kwargs):
    if config.opt_type == ADAFACTOR:
      optimizer = _adafactor(config, learning_rate_schedule, model)
    else:
      optimizer = original(config, learning_rate_schedule, model, *args, **kwargs)
    return _with_multipliers(config, optimizer)

  return replace(optimizers, "get_optimizer", get_optimizer)


def _adafactor(config: Any, learning_rate: Any, model: Any) -> Any:
  """Adafactor, and around it what MaxText puts around each of its own optimizers."""
  import jax
  import optax
  from maxtext.optimizers import optimizers

  from melodi_plugin.training.optimizer_state import adafactor_of

  if model is None:
    raise ValueError("opt_type=adafactor is for pre-training: it needs the model's parameters.")
  optimizer = adafactor_of(model, learning_rate)
  if config.skip_step_on_spikes:
    optimizer = optimizers.skip_step_on_spikes(
      optimizer, config.skip_step_interval, config.skip_step_scaling_factor
    )
  is_frozen = optimizers._get_path_mask_fn(
    config.trainable_parameters_mask, match_returns_true=False
  )
  if is_frozen is None:
    return optimizer

  def labels(params: Any) -> Any:
    return jax.tree.map(lambda frozen: "frozen" if frozen else "trainable", is_frozen(params))

  return optax.multi_transform({"trainable": optimizer, "frozen": optax.set_to_zero()}, labels)


def _with_multipliers(config: Any, optimizer: Any) -> Any:
  """The optimizer, with the learning rates of scalars, and of what memory adds to a block."""
  import jax
  import optax

  from melodi_plugin.training.parameter_paths import name_of

  if not is_melodi(config):
    return optimizer
  around = has_base_block(config)
  memory = config.melodi_memory_learning_rate_multiplier if around else 1
  scalars = config.melodi_scalar_learning_rate_multiplier
  if memory == scalars == 1:
    return optimizer

  def scale(path: Any, update: Any) -> Any:
    name = name_of(path)
    if around and not is_memory_parameter(name):
      return update
    return update * (scalars if is_scalar(name) else memory)

  def update(updates, state, params=None, **extra):
    updates, state = optimizer.update(updates, state, params, **extra)
    return jax.tree_util.tree_map_with_path(scale, updates), state

  # Wrapped and not chained, so that the optimizer's state looks as it does without.
  return optax.GradientTransformationExtraArgs(optimizer.init, update)
