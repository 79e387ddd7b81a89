"""What MaxText's own layers do otherwise in rows of documents.

MaxText's Gated DeltaNet hides padding but carries its state, and the inputs of its convolution,
from one document of a row into the next; here every document begins with none.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Int

# What a state is multiplied with where a document begins is exp(-_FORGET), below float32's epsilon.
# No larger: decays are differences of sums in which it stands once per document.
_FORGET = 30.0


def sees(positions: Int[Array, "B T"], window: int, sinks: int) -> Bool[Array, "B T T"]:
  """Whether a token (second axis) may see another: near enough, or a sink.

  Sinks are the first tokens of a document in the chunk; causality and documents are not looked at.
  """
  places = jnp.arange(positions.shape[1])
  near = places[:, None] - places[None, :] < window
  return near | (positions[:, None, :] < sinks)


@contextlib.contextmanager
def documents_apart(layer: Any, segment_ids: Int[Array, "B T"]) -> Iterator[None]:
  """While it is open, a Gated DeltaNet `layer` of MaxText keeps the documents of a row apart."""
  attributes = vars(layer)  # past nnx, which would make parts of the model of what stands in
  convolution, project = attributes["conv1d"], attributes["in_proj_ba"]

  def conv1d(inputs: Array, **unused: Any) -> Array:
    return convolve(inputs, convolution.kernel[...], segment_ids)

  def in_proj_ba(*inputs: Any, **more: Any) -> Array:
    return _forgetting(layer, project(*inputs, **more), segment_ids)

  attributes |= {"conv1d": conv1d, "in_proj_ba": in_proj_ba}
  try:
    yield
  finally:
    attributes |= {"conv1d": convolution, "in_proj_ba": project}


def convolve(
  inputs: Float[Array, "B t D"], kernel: Float[Array, "n 1 D"], segment_ids: Int[Array, "B T"]
) -> Float[Array, "B T D"]:
  """Causal convolution per channel, within documents; `inputs` begin with n - 1 of padding."""
  length, before = segment_ids.shape[1], kernel.shape[0] - 1
  ids = jnp.pad(segment_ids, ((0, 0), (before, 0)), constant_values=-1)
  total = jnp.zeros_like(inputs[:, :length])
  for tap in range(before + 1):
    same = ids[:, tap : tap + length] == segment_ids
    here = jnp.where(same[..., None], inputs[:, tap : tap + length], 0)
    total += here * kernel[tap, 0].astype(inputs.dtype)
  return total


def _forgetting(layer: Any, gates: Array, segment_ids: Int[Array, "B T"]) -> Array:
  """The layer's projection for gates, which forgets all at the first token of every document."""
  batch, length = segment_ids.shape
  rate = jax.lax.stop_gradient(jnp.exp(layer.A_log[...].astype(jnp.float32)))
  decay = _FORGET / rate - jax.lax.stop_gradient(layer.dt_bias[...])
  grouped = gates.reshape(batch, length, layer.num_k_heads, 2, layer.v_heads_per_k_head)
  decay = decay.reshape(layer.num_k_heads, layer.v_heads_per_k_head).astype(gates.dtype)
  begins = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
  forget = begins[:, :, None, None]
  grouped = grouped.at[..., 1, :].set(jnp.where(forget, decay, grouped[..., 1, :]))
  return grouped.reshape(gates.shape)
