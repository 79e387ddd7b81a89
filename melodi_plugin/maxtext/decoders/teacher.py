"""The teacher of a model with memory: the same weights, with full attention over the segment."""

from typing import Any

import jax
from flax import nnx

from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.training.distillation import (
  counted,
  divergence,
  mean_where,
  places_in_segment,
)

STUDENT = "student_logits"  # where a decoder leaves them for the loss


def distill(
  model: Any, config: Any, batch: dict[str, Array], student: Float[Array, "B T V"]
) -> Float[Array, ""]:
  """The divergence of a batch in nats: its mean over the tokens that count.

  Args:
    model: MaxText's model with memory around its layers; it is not changed.
    config: MaxText's.
    batch: MaxText's arrays (B, T).
    student: the logits of the model with memory.
  """
  ids = batch["inputs_segmentation"]
  teacher = _teacher_logits(model, batch["inputs"], ids)
  settings = config.melodi_distill_temperature, config.melodi_distill_top_k
  where = counted(ids, batch["targets_segmentation"], config.melodi_window_length)
  return mean_where(divergence(student, teacher, *settings), where)


def _teacher_logits(model: Any, tokens: Array, segment_ids: Array) -> Float[Array, "B T V"]:
  """No gradient passes, so of the teacher's pass nothing is kept for one."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  teacher = nnx.merge(graphdef, jax.lax.stop_gradient(params), rest, copy=True)
  # Document positions may be too large for what the model was trained on.
  positions = places_in_segment(segment_ids)
  logits = teacher.decoder.without_memory(teacher.token_embedder, tokens, positions, segment_ids)
  return jax.lax.stop_gradient(logits)
