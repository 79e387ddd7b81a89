"""Parameters of a token mixer, and what every module of parameters here is made with."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.parameter_names import TEMPERATURES
from melodi_plugin.core.token_mixer import TokenMixer

Axes = tuple[str | None, ...]

kernel_init = initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def new_param(
  rngs: nnx.Rngs, init: initializers.Initializer, shape: tuple[int, ...], axes: Axes, dtype: Any
) -> nnx.Param:
  """A parameter with one logical axis per dimension."""
  return nnx.Param(init(rngs.params(), shape, dtype), out_sharding=axes)


def value_of(param: nnx.Param | None) -> Any:
  """The array of a parameter that may be absent."""
  return None if param is None else param[...]


def start_temperatures(module: nnx.Module, start: float, long_start: float) -> nnx.Module:
  """Sets the temperatures of a layer, which begin at 1; `long_start` is for its queue's own."""
  for path, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Param) and path[-1] in TEMPERATURES:
      value = long_start if path[-1] == "long_temperature" else start
      node[...] = jnp.full_like(node[...], value)
  return module


def summary_embeddings(
  config: MelodiConfig, init: initializers.Initializer, *, dtype: Any, rngs: nnx.Rngs
) -> nnx.Param:
  """The one learned table (U, D) of a stack."""
  return new_param(rngs, init, (config.summary_tokens, config.emb_dim), (None, "embed"), dtype)


class TokenMixerParams(nnx.Module):
  """One mixer from W + U tokens to `outputs` tokens, with norms where `normed`."""

  def __init__(
    self,
    config: MelodiConfig,
    outputs: int,
    init: initializers.Initializer,
    *,
    normed: bool,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    kernel = (config.mixer_inputs, outputs)
    norm = (config.emb_dim,)
    self.kernel = new_param(rngs, init, kernel, (None, None), dtype)
    self.bias = new_param(rngs, initializers.zeros, (outputs,), (None,), dtype)
    ones = initializers.ones
    self.context_norm = new_param(rngs, ones, norm, ("norm",), dtype) if normed else None
    self.summary_norm = new_param(rngs, ones, norm, ("norm",), dtype) if normed else None

  def parameters(self) -> TokenMixer:
    """The arrays, for the pure functions."""
    return TokenMixer(
      self.kernel[...], self.bias[...], value_of(self.context_norm), value_of(self.summary_norm)
    )
