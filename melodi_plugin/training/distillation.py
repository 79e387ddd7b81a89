"""How far a student's next token is from a teacher's: the loss of distillation.

The teacher reads a segment with full attention; the student reads it in windows.  They are compared
where the teacher sees more text than a window: behind the first window of every document, counted
from where the document begins in the segment.
"""

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Int

_LEAST = 2.0**-23  # of what is left beside the best tokens, which float32 knows no better


def places_in_segment(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
  """The place of every token in what the segment has of its document."""
  begins = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
  index = jnp.arange(segment_ids.shape[1], dtype=jnp.int32)
  return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


def counted(
  segment_ids: Int[Array, "B T"], target_ids: Int[Array, "B T"], window_length: int
) -> Bool[Array, "B T"]:
  """Where student and teacher are compared; `target_ids` are 0 where nothing is to be predicted."""
  return (places_in_segment(segment_ids) >= window_length) & (target_ids != 0)


def divergence(
  student: Float[Array, "*B V"], teacher: Float[Array, "*B V"], temperature: float, top_k: int
) -> Float[Array, "*B"]:
  """KL(teacher || student) of every token, in nats, of logits divided by a temperature.

  Hinton et al., Distilling the Knowledge in a Neural Network, 2015.  With `top_k` > 0 the teacher
  keeps its `top_k` best tokens and one outcome more, "any other": never more than the KL of all,
  0 where that is, and nothing of size V is kept of the teacher.
  """
  student, teacher = (leaf.astype(jnp.float32) / temperature for leaf in (student, teacher))
  log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
  if not 0 < top_k < teacher.shape[-1]:
    return _expected(log_p, log_q)
  log_p, best = jax.lax.top_k(log_p, top_k)
  log_q = jnp.take_along_axis(log_q, best, axis=-1)
  return _expected(log_p, log_q) + _expected(_others(log_p), _others(log_q))


def _expected(log_p: Float[Array, "*B n"], log_q: Float[Array, "*B n"]) -> Float[Array, "*B"]:
  return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def _others(log: Float[Array, "*B n"]) -> Float[Array, "*B 1"]:
  """The logarithm of what n probabilities leave."""
  return jnp.log(jnp.maximum(1 - jnp.exp(log).sum(-1, keepdims=True), _LEAST))


def mean_where(
  values: Float[Array, "B T"], where: Bool[Array, "B T"], count: Float[Array, ""] | None = None
) -> Float[Array, ""]:
  """The mean of the values where a flag is set; 0 if it is set nowhere.

  With `count` their sum by that.
  """
  count = where.sum(dtype=values.dtype) if count is None else count
  return jnp.where(where, values, 0).sum() / jnp.maximum(count, 1)
