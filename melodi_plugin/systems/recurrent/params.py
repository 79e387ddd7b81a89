"""Parameters of a Block-Recurrent layer: shapes, initialisers (SEMANTICS 4.4) and logical axes."""

from typing import Any

from flax import nnx
from jax.nn import initializers

from melodi_plugin.config.layers import LayerSpec, Recurrence
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.params import kernel_init, new_param, value_of
from melodi_plugin.systems.recurrent.reader import RecurrentLayer
from melodi_plugin.systems.recurrent.states import Gate, StateLayer

_small_normal = initializers.normal(0.1)
_gate_kernel_init = initializers.variance_scaling(0.1, "fan_in", "truncated_normal")


class GateParams(nnx.Module):
  """How much of a state stays.  Attribute names are those of `Gate`.

  `inputs` are the size and the logical axis of what an LSTM's gates look at.
  """

  def __init__(
    self,
    recurrence: Recurrence,
    inputs: tuple[int, str],
    width: int,
    *,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    def bias(exists: bool) -> nnx.Param | None:
      return new_param(rngs, _small_normal, (width,), ("norm",), dtype) if exists else None

    def kernel() -> nnx.Param | None:
      if not lstm:
        return None
      size, axis = inputs
      return new_param(rngs, _gate_kernel_init, (size, width), (axis, "embed"), dtype)

    lstm = recurrence.gate == "lstm"
    self.bias = bias(not lstm)
    self.forget_kernel, self.forget_bias = kernel(), bias(lstm)
    self.input_kernel, self.input_bias = kernel(), bias(lstm)

  def parameters(self) -> Gate:
    """The arrays, for the pure functions; stacked if the module is."""
    return Gate(**{name: value_of(getattr(self, name)) for name in Gate._fields})


class StateLayerParams(nnx.Module):
  """The states' half of a recurrent layer.  Attribute names are those of `StateLayer`."""

  def __init__(self, config: MelodiConfig, spec: LayerSpec, *, dtype: Any, rngs: nnx.Rngs):
    width, ffn, states = config.emb_dim, config.mlp_dim, spec.increment
    heads, all_heads = config.num_heads, config.num_heads * config.head_dim
    recurrence = config.recurrence
    has_ffn, single = recurrence.cell != "skip", recurrence.cell == "single"

    def param(init, shape, axes, exists: bool = True) -> nnx.Param | None:
      return new_param(rngs, init, shape, axes, dtype) if exists else None

    def gate(inputs: tuple[int, str], exists: bool) -> GateParams | None:
      return GateParams(recurrence, inputs, width, dtype=dtype, rngs=rngs) if exists else None

    ones, read = initializers.ones, 2 * all_heads
    self.initial = param(_small_normal, (states, width), (None, "embed"))
    self.positions = param(initializers.normal(1.0), (states, width), (None, "embed"))
    self.attention_norm = param(ones, (width,), ("norm",))
    for name in ("query", "key", "value", "cross"):
      setattr(self, name, param(kernel_init, (width, all_heads), ("embed", "heads")))
    self.temperature = param(ones, (heads,), (None,))
    self.cross_temperature = param(ones, (heads,), (None,))
    self.out = param(kernel_init, (read, width), ("heads", "embed"), not single)
    self.attention_gate = gate((read, "heads"), not single)
    self.ffn_norm = param(ones, (width,), ("norm",), recurrence.cell == "dual")
    inputs = read if single else width
    self.ffn_in = param(kernel_init, (inputs, ffn), ("embed", "mlp"), has_ffn)
    self.ffn_out = param(kernel_init, (ffn, width), ("mlp", "embed"), has_ffn)
    self.ffn_gate = gate((ffn, "mlp"), has_ffn)

  def parameters(self) -> StateLayer:
    """The arrays, for the pure functions; stacked if the module is."""
    leaves: dict[str, Any] = {}
    for name in StateLayer._fields:
      own = getattr(self, name)
      leaves[name] = own.parameters() if isinstance(own, GateParams) else value_of(own)
    return StateLayer(**leaves)


class RecurrentLayerParams(nnx.Module):
  """A layer that reads states, and has them if it is recurrent."""

  def __init__(self, config: MelodiConfig, spec: LayerSpec, *, dtype: Any, rngs: nnx.Rngs):
    width, heads = config.emb_dim, config.num_heads
    self.tokens = PaperLayerParams(config, spec, dtype=dtype, rngs=rngs, attentions=2)
    self.cross = new_param(
      rngs, kernel_init, (width, heads * config.head_dim), ("embed", "heads"), dtype
    )
    self.cross_temperature = new_param(rngs, initializers.ones, (heads,), (None,), dtype)
    recurrent = spec.increment > 0
    self.states = StateLayerParams(config, spec, dtype=dtype, rngs=rngs) if recurrent else None

  def parameters(self) -> RecurrentLayer:
    """The arrays, for the pure functions; stacked if the module is."""
    return RecurrentLayer(
      tokens=self.tokens.parameters(),
      cross=self.cross[...],
      cross_temperature=self.cross_temperature[...],
      states=None if self.states is None else self.states.parameters(),
    )
