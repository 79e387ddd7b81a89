"""Parameters of the paper's layers: shapes, initialisers (SEMANTICS 1.8) and logical axes."""

from typing import Any

from flax import nnx
from jax.nn import initializers

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.attention import T5_BUCKETS
from melodi_plugin.systems.paper.layer import PaperLayer
from melodi_plugin.systems.params import Axes, TokenMixerParams, kernel_init, new_param, value_of

_bias_table_init = initializers.normal(T5_BUCKETS**-0.5)
# The reference's "stddev 0.25" is that before truncation; the real one is 0.22.
small_init = initializers.truncated_normal(0.25)


class PaperLayerParams(nnx.Module):
  """One layer of the paper.  Attribute names are those of `PaperLayer`.

  `attentions` is the number of attentions whose heads the output projection reads.
  """

  def __init__(
    self,
    config: MelodiConfig,
    spec: LayerSpec,
    *,
    dtype: Any,
    rngs: nnx.Rngs,
    attentions: int = 1,
  ):
    width, ffn = config.emb_dim, config.mlp_dim
    heads, all_heads = config.num_heads, config.num_heads * config.head_dim

    def param(init: initializers.Initializer, shape: tuple[int, ...], axes: Axes) -> nnx.Param:
      return new_param(rngs, init, shape, axes, dtype)

    def mixer(exists: bool | int, outputs: int, normed: bool) -> TokenMixerParams | None:
      if not exists:
        return None
      return TokenMixerParams(config, outputs, kernel_init, normed=normed, dtype=dtype, rngs=rngs)

    ones, zeros = initializers.ones, initializers.zeros
    self.attention_norm = param(ones, (width,), ("norm",))
    self.query = param(kernel_init, (width, all_heads), ("embed", "heads"))
    self.key = param(kernel_init, (width, all_heads), ("embed", "heads"))
    self.value = param(kernel_init, (width, all_heads), ("embed", "heads"))
    self.out = param(kernel_init, (attentions * all_heads, width), ("heads", "embed"))
    self.temperature = param(ones, (heads,), (None,))
    t5 = config.position == "t5" and spec.has_positions
    own = config.own_long_temperature and spec.mixes_long
    self.long_temperature = param(ones, (heads,), (None,)) if own else None
    self.position_bias = param(_bias_table_init, (heads, T5_BUCKETS), (None, None)) if t5 else None
    self.ffn_norm = param(ones, (width,), ("norm",))
    self.ffn_in = param(kernel_init, (width, ffn), ("embed", "mlp"))
    biased = config.ffn_bias
    self.ffn_in_bias = param(zeros, (ffn,), ("mlp",)) if biased else None
    self.ffn_out = param(kernel_init, (ffn, width), ("mlp", "embed"))
    self.ffn_out_bias = param(zeros, (width,), ("norm",)) if biased else None

    gated = spec.mixes_long or (spec.increment and config.neighbors.count)
    gate = (heads, config.head_dim) if spec.mixes_long else (heads, 1)
    gate_init = small_init if spec.mixes_long else zeros
    self.gate = param(gate_init, gate, (None, None)) if gated else None
    self.summary_mixer = mixer(spec.mixes_summary, config.summary_tokens, normed=True)
    self.short_mixer = mixer(spec.mixes_short, spec.short_tokens, normed=spec.residual_short)
    self.long_mixer = mixer(spec.mixes_long, spec.increment, normed=False)

  def parameters(self) -> PaperLayer:
    """The arrays, for the pure functions; stacked if the module is."""
    mixers = ("summary_mixer", "short_mixer", "long_mixer")
    leaves: dict[str, Any] = {}
    for name in PaperLayer._fields:
      own = getattr(self, name)
      leaves[name] = own.parameters() if own and name in mixers else value_of(own)
    return PaperLayer(**leaves)
