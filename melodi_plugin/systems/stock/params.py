"""Parameters that memory adds to a stock block, and how they start without harm.

Memory starts as a copy: short-term memory as the last S tokens of the window, the increment as L
tokens spread over it.  A pretrained layer knows what to do with such tokens, not with mixtures.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from melodi_plugin.config.model import LayerSpec, MelodiConfig
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
    last = jnp.arange(window - spec.short_tokens, window)
    spread = (jnp.arange(spec.increment) + 1) * window // max(spec.increment, 1) - 1
    self.offset = constant(spec.short_tokens, offset, heads)
    self.gate = constant(spec.increment, gate, (*heads, config.head_dim))
    self.summary_mixer = mixer(spec.mixes_summary, summary, initializers.zeros, True)
    self.short_mixer = mixer(spec.mixes_short, spec.short_tokens, _copy(last), spec.residual_short)
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


def _copy(tokens: Array) -> initializers.Initializer:
  """A kernel (i, o) whose output o is input `tokens[o]` (the first, if there is none such)."""

  def init(key, shape, dtype=jnp.float32, out_sharding=None) -> Float[Array, "i o"]:
    del key, out_sharding
    return jax.nn.one_hot(jnp.maximum(tokens, 0), shape[0], axis=0, dtype=dtype)

  return init
