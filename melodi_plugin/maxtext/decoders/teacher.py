"""The teacher of a model with memory: the same weights, with full attention over the segment."""

from typing import Any

import jax
from flax import nnx

from melodi_plugin.core.array_typing import Array, Bool, Float
from melodi_plugin.training.distillation import (
  counted,
  divergence,
  mean_where,
  places_in_segment,
)

STUDENT = "student_logits"  # where a decoder leaves them for the loss


def distill(
  model: Any,
  config: Any,
  batch: dict[str, Array],
  student: Float[Array, "B T V"],
  count: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
  """The divergence of a batch in nats: its mean over the tokens that are compared.

  Args:
    model: MaxText's model with memory around its layers; it is not changed.
    config: MaxText's.
    batch: MaxText's arrays (B, T).
    student: the logits of the model with memory.
    count: what the sum is divided by, if not by the number of those tokens.
  """
  teacher = _teacher_logits(model, batch["inputs"], batch["inputs_segmentation"])
  settings = config.melodi_distill_temperature, config.melodi_distill_top_k
  where = compared(config, batch)
  return mean_where(divergence(student, teacher, *settings), where, count)


def compared(config: Any, batch: dict[str, Array]) -> Bool[Array, "B T"]:
  """The tokens of a batch where student and teacher are compared."""
  ids, targets = batch["inputs_segmentation"], batch["targets_segmentation"]
  return counted(ids, targets, config.melodi_window_length)


def _teacher_logits(model: Any, tokens: Array, segment_ids: Array) -> Float[Array, "B T V"]:
  """No gradient passes, so of the teacher's pass nothing is kept for one."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  teacher = nnx.merge(graphdef, jax.lax.stop_gradient(params), rest, copy=True)
  # Document positions may be too large for what the model was trained on.
  positions = places_in_segment(segment_ids)
  logits = teacher.decoder.without_memory(teacher.token_embedder, tokens, positions, segment_ids)
  return jax.lax.stop_gradient(logits)
