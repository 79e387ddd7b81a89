"""The loss of a training step: what its rows see, how far a teacher is, and how that is logged."""

import functools
import inspect
from typing import Any

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace

_FREE = "mtp_loss"  # of multi-token prediction, which models with memory do not have
# What every row of a microbatch is told (B, 1): its number, and two sums over the whole batch.
_NUMBER, _TARGETS, _COMPARED = "microbatch", "targets_in_batch", "compared_in_batch"


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
  """Microbatches, random compression, and distillation: loss + weight * temperature^2 * divergence.

  Of a microbatch MaxText adds up the losses of tokens, and divides by the targets of the batch in
  the end; distillation is a mean over other tokens.
  """
  from maxtext.trainers.pre_train import train

  original = train.loss_fn

  @functools.wraps(original)
  def loss_fn(model, config, data, dropout_rng, params, sparsity_state=None, is_train=True):
    told = {n: data.pop(n)[0, 0] for n in (_NUMBER, _TARGETS, _COMPARED) if n in data}
    if told:
      _number(model, told[_NUMBER])
    if is_train and getattr(config, "melodi_long_term_windows_drawn", ""):
      _hide(model, config, data["inputs"])
    loss, aux = original(model, config, data, dropout_rng, params, sparsity_state, is_train)
    weight = getattr(config, "melodi_distill_weight", 0)
    if not (weight and is_train):
      return loss, aux
    from melodi_plugin.maxtext.decoders.teacher import STUDENT, distill

    student = aux["intermediate_outputs"]["decoder"].pop(STUDENT)
    # `data` is cut to the rows of this step by now.
    divergence = distill(model, config, data, student, told.get(_COMPARED))
    added = _distill_factor(config) * divergence
    # MaxText logs the mean of this over microbatches.
    aux[_FREE] = added * config.gradient_accumulation_steps if told else added
    return loss + added * told.get(_TARGETS, 1), aux

  return replace(train, "loss_fn", loss_fn)


def _distill_factor(config: Any) -> float:
  """What a divergence is worth in the loss."""
  return config.melodi_distill_weight * config.melodi_distill_temperature**2


def _number(model: Any, number: Any) -> None:
  """The rows of memory that are those of a microbatch; MaxText's loss removes it again."""
  from flax import nnx

  from melodi_plugin.maxtext.decoders.microbatch import MICROBATCH

  setattr(model.decoder, MICROBATCH, nnx.Intermediate(number))


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
      scalars |= {"melodi/distill": scalars[name] / _distill_factor(config), name: 0.0}
    return state, metrics

  return replace(train, "train_step", train_step)


def probe_accumulation() -> str | None:
  from maxtext.trainers.pre_train import train

  accumulate = train.gradient_accumulation_loss_and_grad
  if "(batch_arr.shape[0] // num_microbatches, num_microbatches)" not in inspect.getsource(
    accumulate
  ):
    return "no longer gives microbatch g of G the rows g, g + G, g + 2G, ..."
  return parameters(
    accumulate, "_loss_fn", "config", "model", "params", "params_shardings", "data", "dropout_rng"
  )


def apply_accumulation() -> Undo:
  """Tells every microbatch which it is: memory is carried through all of them, for all rows."""
  from maxtext.trainers.pre_train import train

  original = train.gradient_accumulation_loss_and_grad

  @functools.wraps(original)
  def accumulate(loss_fn, config, model, params, params_shardings, data, dropout_rng):
    if is_melodi(config):
      data = data | _told(config, data)
    return original(loss_fn, config, model, params, params_shardings, data, dropout_rng)

  return replace(train, "gradient_accumulation_loss_and_grad", accumulate)


def _told(config: Any, data: Any) -> dict[str, Any]:
  """What the loss of a microbatch must know, for MaxText to deal out with the rows."""
  import jax.numpy as jnp

  rows = jnp.arange(data["inputs"].shape[0], dtype=jnp.int32)[:, None]
  told = {_NUMBER: rows % config.gradient_accumulation_steps}
  if config.melodi_distill_weight:
    from melodi_plugin.maxtext.decoders.teacher import compared

    everywhere = lambda flags: jnp.full(rows.shape, flags.sum(dtype=jnp.float32))  # noqa: E731
    told[_TARGETS] = everywhere(data["targets_segmentation"] != 0)
    told[_COMPARED] = everywhere(compared(config, data))
  return told
