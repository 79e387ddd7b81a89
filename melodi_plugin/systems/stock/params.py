"""Parameters that memory adds to a stock block, and how they start without harm.

Memory starts as a copy: mixed short-term tokens as the last S tokens of the window, the increment
as L tokens spread over it.  A pretrained layer knows what to do with such tokens, not with
mixtures.  Beside a cache the last tokens are there already, so the S tokens start spread over what
the cache does not hold of the window; if it holds all, over the window.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.systems.params import TokenMixerParams, new_param, value_of
from melodi_plugin.systems.stock.reader import StockLayer

table_init = initializers.normal(0.02)  # small next to what the first layer adds to it


class StockMemoryParams(nnx.Module):
  """What memory adds to one layer.  Attribute names are those of `StockLayer`."""

  def __init__(
    self, config: MelodiConfig, spec: LayerSpec, *, offset: float, gate: float, rngs: nnx.Rngs
  ):
    dtype = jnp.float32  # few numbers, and small steps of a gate near 4 vanish in bfloat16
    heads = (config.num_attentions, config.num_heads)

    def constant(exists: int, value: float, shape: tuple[int, ...]) -> nnx.Param | None:
      init = initializers.constant(value)
      return new_param(rngs, init, shape, (None,) * len(shape), dtype) if exists else None

    def mixer(
      exists: bool | int, outputs: int, init: initializers.Initializer, normed: bool
    ) -> TokenMixerParams | None:
      if not exists:
        return None
      return TokenMixerParams(config, outputs, init, normed=normed, dtype=dtype, rngs=rngs)

    window, summary = config.window_length, config.summary_tokens
    short = jnp.arange(window - spec.mixed_tokens, window)
    if spec.cache_tokens:
      uncached = window - spec.cache_tokens
      short = _spread(spec.mixed_tokens, uncached if uncached > 0 else window)
    spread = _spread(spec.increment, window)
    self.offset = constant(spec.mixed_tokens, offset, heads)
    self.gate = constant(spec.increment, gate, (*heads, config.head_dim))
    self.summary_mixer = mixer(spec.mixes_summary, summary, initializers.zeros, True)
    self.short_mixer = mixer(spec.mixes_short, spec.mixed_tokens, _copy(short), spec.residual_short)
    self.long_mixer = mixer(spec.increment, spec.increment, _copy(spread), False)

  def parameters(self, block: Any) -> StockLayer:
    """The arrays, together with the block's own parameters; stacked if the module is."""
    mixers = (self.summary_mixer, self.short_mixer, self.long_mixer)
    return StockLayer(
      block,
      value_of(self.offset),
      value_of(self.gate),
      *(None if mixer is None else mixer.parameters() for mixer in mixers),
    )


def _spread(count: int, tokens: int) -> Array:
  """The ends of `count` equal parts of `tokens` tokens."""
  return (jnp.arange(count) + 1) * tokens // max(count, 1) - 1


def _copy(tokens: Array) -> initializers.Initializer:
  """A kernel (i, o) whose output o is input `tokens[o]` (the first, if there is none such)."""

  def init(key, shape, dtype=jnp.float32, out_sharding=None) -> Float[Array, "i o"]:
    del key, out_sharding
    return jax.nn.one_hot(jnp.maximum(tokens, 0), shape[0], axis=0, dtype=dtype)

  return init
