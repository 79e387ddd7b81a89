"""Parameters of the paper's layers: shapes, initialisers (SEMANTICS 1.8) and logical axes."""

from typing import Any

from flax import nnx
from jax.nn import initializers

from melodi_plugin.attention import T5_BUCKETS
from melodi_plugin.config import LayerSpec, MelodiConfig
from melodi_plugin.paper_layer import PaperLayer
from melodi_plugin.token_mixer import TokenMixer

Axes = tuple[str | None, ...]

_kernel_init = initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_bias_table_init = initializers.normal(T5_BUCKETS**-0.5)
# The reference's "stddev 0.25" is that before truncation; the real one is 0.22.
_small_init = initializers.truncated_normal(0.25)


def _param(
  rngs: nnx.Rngs, init: initializers.Initializer, shape: tuple[int, ...], axes: Axes, dtype: Any
) -> nnx.Param:
  return nnx.Param(init(rngs.params(), shape, dtype), out_sharding=axes)


class TokenMixerParams(nnx.Module):
  """One mixer from W + U tokens to `outputs` tokens, with norms where it has a residual."""

  def __init__(
    self, config: MelodiConfig, outputs: int, *, normed: bool, dtype: Any, rngs: nnx.Rngs
  ):
    kernel = (config.mixer_inputs, outputs)
    norm = (config.emb_dim,)
    self.kernel = _param(rngs, _kernel_init, kernel, (None, None), dtype)
    self.bias = _param(rngs, initializers.zeros, (outputs,), (None,), dtype)
    ones = initializers.ones
    self.context_norm = _param(rngs, ones, norm, ("norm",), dtype) if normed else None
    self.summary_norm = _param(rngs, ones, norm, ("norm",), dtype) if normed else None

  def parameters(self) -> TokenMixer:
    """The arrays, for the pure functions."""
    return TokenMixer(
      self.kernel[...],
      self.bias[...],
      _value(self.context_norm),
      _value(self.summary_norm),
    )


class PaperLayerParams(nnx.Module):
  """One layer of the paper.  Attribute names are those of `PaperLayer`."""

  def __init__(self, config: MelodiConfig, spec: LayerSpec, *, dtype: Any, rngs: nnx.Rngs):
    width, ffn = config.emb_dim, config.mlp_dim
    heads, all_heads = config.num_heads, config.num_heads * config.head_dim

    def param(init: initializers.Initializer, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
      return _param(rngs, init, shape, axes, dtype)

    def mixer(exists: bool | int, outputs: int, normed: bool) -> TokenMixerParams | None:
      if not exists:
        return None
      return TokenMixerParams(config, outputs, normed=normed, dtype=dtype, rngs=rngs)

    ones, zeros = initializers.ones, initializers.zeros
    self.attention_norm = param(ones, (width,), ("norm",))
    self.query = param(_kernel_init, (width, all_heads), ("embed", "heads"))
    self.key = param(_kernel_init, (width, all_heads), ("embed", "heads"))
    self.value = param(_kernel_init, (width, all_heads), ("embed", "heads"))
    self.out = param(_kernel_init, (all_heads, width), ("heads", "embed"))
    self.temperature = param(ones, (heads,), (None,))
    t5 = config.position == "t5"
    self.position_bias = param(_bias_table_init, (heads, T5_BUCKETS), (None, None)) if t5 else None
    self.ffn_norm = param(ones, (width,), ("norm",))
    self.ffn_in = param(_kernel_init, (width, ffn), ("embed", "mlp"))
    self.ffn_in_bias = param(zeros, (ffn,), ("mlp",))
    self.ffn_out = param(_kernel_init, (ffn, width), ("mlp", "embed"))
    self.ffn_out_bias = param(zeros, (width,), ("norm",))

    gate = (heads, config.head_dim)
    self.gate = param(_small_init, gate, (None, None)) if spec.increment else None
    self.summary_mixer = mixer(spec.mixes_summary, config.summary_tokens, normed=True)
    self.short_mixer = mixer(spec.mixes_short, spec.short_tokens, normed=spec.residual_short)
    self.long_mixer = mixer(spec.increment, spec.increment, normed=False)

  def parameters(self) -> PaperLayer:
    """The arrays, for the pure functions; stacked if the module is."""
    mixers = ("summary_mixer", "short_mixer", "long_mixer")
    leaves: dict[str, Any] = {}
    for name in PaperLayer._fields:
      own = getattr(self, name)
      leaves[name] = own.parameters() if own and name in mixers else _value(own)
    return PaperLayer(**leaves)


def summary_embeddings(config: MelodiConfig, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Param:
  """The one learned table (U, D) of the stack."""
  shape = (config.summary_tokens, config.emb_dim)
  return _param(rngs, _small_init, shape, (None, "embed"), dtype)


def _value(param: nnx.Param | None) -> Any:
  return None if param is None else param[...]
