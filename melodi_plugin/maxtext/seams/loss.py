"""The loss of a training step: what its rows see, how far a teacher is, and how that is logged."""

import functools
from typing import Any

from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace

_FREE = "mtp_loss"  # of multi-token prediction, which models with memory do not have


def probe_loss() -> str | None:
  from maxtext.trainers.pre_train import train

  return parameters(
    train.loss_fn,
    "model",
    "config",
    "data",
    "dropout_rng",
    "params",
    "sparsity_state",
    "is_train",
  )


def apply_loss() -> Undo:
  """Random compression, and distillation: loss + weight * temperature^2 * divergence."""
  from maxtext.trainers.pre_train import train

  original = train.loss_fn

  @functools.wraps(original)
  def loss_fn(model, config, data, dropout_rng, params, sparsity_state=None, is_train=True):
    if is_train and getattr(config, "melodi_long_term_windows_drawn", ""):
      _hide(model, config, data["inputs"])
    loss, aux = original(model, config, data, dropout_rng, params, sparsity_state, is_train)
    weight = getattr(config, "melodi_distill_weight", 0)
    if not (weight and is_train):
      return loss, aux
    from melodi_plugin.maxtext.decoders.teacher import STUDENT, distill

    student = aux["intermediate_outputs"]["decoder"].pop(STUDENT)
    # `data` is cut to the rows of this step by now.
    aux[_FREE] = distill(model, config, data, student)
    return loss + weight * config.melodi_distill_temperature**2 * aux[_FREE], aux

  return replace(train, "loss_fn", loss_fn)


def _hide(model: Any, config: Any, tokens: Any) -> None:
  """Random compression; MaxText's loss removes what is no state of the model."""
  from flax import nnx

  from melodi_plugin.maxtext.decoders.drawn import HIDDEN, draw_hidden

  rows = tokens[: config.micro_batch_size_to_train_on]
  setattr(model.decoder, HIDDEN, nnx.Intermediate(draw_hidden(config, rows)))


def probe_step() -> str | None:
  from maxtext.trainers.pre_train import train

  return parameters(train.train_step, "model", "config", "state_mesh_shardings", "params_shardings")


def apply_step() -> Undo:
  """MaxText's step knows only the names of its own losses."""
  from maxtext.trainers.pre_train import train

  original = train.train_step

  @functools.wraps(original)
  def train_step(model, config, *args, **kwargs):
    state, metrics = original(model, config, *args, **kwargs)
    if getattr(config, "melodi_distill_weight", 0):
      scalars, name = metrics["scalar"], f"learning/{_FREE}"
      scalars |= {"melodi/distill": scalars[name], name: 0.0}
    return state, metrics

  return replace(train, "train_step", train_step)
