"""MaxText's own decoder layers as `Block`s: pure functions with their attention cores open.

A table says where a layer keeps its attentions and the norms in front of them; everything else is
the layer's own `__call__`.  `stock_block_test` in integration_tests probes every entry.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from maxtext.common.common_types import MODEL_MODE_TRAIN, AttentionType
from maxtext.models.gemma3 import GEMMA3_ATTENTION_PATTERN

from melodi_plugin.core.array_typing import Array, Float, Heads
from melodi_plugin.systems.stock.reader import Attention, Core, KeyHeads


class Part(NamedTuple):
  """Attribute names of one attention of a layer, and of the norm that its input goes through."""

  norm: str
  attention: str


_ONE = (Part("pre_self_attention_layer_norm", "self_attention"),)
PARTS: dict[str, tuple[Part, ...]] = {
  "llama2": _ONE,
  "mistral": _ONE,
  "qwen2": _ONE,
  "qwen3": _ONE,
  "mixtral": _ONE,
  "qwen3_moe": _ONE,
  "gemma3": (Part("pre_self_attention_norm", "self_attention"),),
  "gemma2": (
    Part("pre_self_attention_norm_local", "self_attention_local"),
    Part("pre_self_attention_norm_global", "self_attention_global"),
  ),
}


class _OpenCore:
  """Stands where a layer has its AttentionOp."""

  def __init__(self, core: Core):
    self.core = core

  def __call__(self, query: Array, key: Array, value: Array, *unused: Any) -> Array:
    return self.core(query, key, value)


@dataclasses.dataclass(frozen=True)
class MaxTextBlock:
  """See `Block`.  `graphdef` is a layer without its arrays, which are the `params` of all calls."""

  graphdef: Any
  parts: tuple[Part, ...]
  attentions: tuple[Attention, ...]
  looks_up_positions: bool

  def __call__(
    self, params: Any, tokens: Array, positions: Array, cores: Sequence[Core]
  ) -> Float[Array, "B t D"]:
    """See `Block.__call__`."""
    layer = nnx.merge(self.graphdef, params)
    for part, core in zip(self.parts, cores, strict=True):
      getattr(layer, part.attention).attention_op = _OpenCore(core)
    positions = jnp.broadcast_to(positions, tokens.shape[:2])
    text = jnp.ones(tokens.shape[:2], jnp.int32)
    return layer(tokens, text, positions, True, MODEL_MODE_TRAIN)[0]

  def project(
    self, params: Any, tokens: Array, positions: Array
  ) -> list[tuple[KeyHeads, KeyHeads]]:
    """See `Block.project`: norm and attention only, so nothing runs through feed-forward layers."""
    layer = nnx.merge(self.graphdef, params)
    found: list[tuple[KeyHeads, KeyHeads]] = []

    def record(query: Heads, key: KeyHeads, value: KeyHeads) -> Heads:
      found.append((key, value))
      return jnp.zeros_like(query)

    for part in self.parts:
      attention = getattr(layer, part.attention)
      attention.attention_op = _OpenCore(record)
      normed = getattr(layer, part.norm)(tokens)
      attention(normed, normed, positions, model_mode=MODEL_MODE_TRAIN, deterministic=True)
    return found

  def turn(self, params: Any, keys: Sequence[KeyHeads], positions: Array) -> list[KeyHeads]:
    """See `Block.turn`."""
    layer = nnx.merge(self.graphdef, params)
    attentions = [getattr(layer, part.attention) for part in self.parts]
    return [
      attention.apply_rotary_embedding(key, positions)
      for attention, key in zip(attentions, keys, strict=True)
    ]


class LayerAt(NamedTuple):
  """One layer: a module, and where it lies in it if the module is a stack."""

  module: nnx.Module
  index: int | None

  def attentions(self, parts: tuple[Part, ...]) -> tuple[Attention, ...]:
    """What the layer's attentions do, read off MaxText's."""
    ops = [getattr(self.module, part.attention).attention_op for part in parts]
    return tuple(
      Attention(
        op.sliding_window_size if op.attention_type == AttentionType.LOCAL_SLIDING else None,
        op.attn_logits_soft_cap or None,
      )
      for op in ops
    )


def layers_of(decoder: Any, base_block: str) -> list[LayerAt]:
  """The layers that MaxText's decoder has made, from the bottom up."""
  config, count = decoder.config, decoder.config.num_decoder_layers
  if not config.scan_layers:
    return [LayerAt(getattr(decoder, f"layers_{i}"), None) for i in range(count)]
  if base_block != "gemma3":
    return [LayerAt(decoder.layers, i) for i in range(count)]
  # Gemma3 scans a pattern of layers, and has what is left of the last one at the top.
  period = len(GEMMA3_ATTENTION_PATTERN)
  scanned = count // period * period
  return [
    LayerAt(getattr(decoder.layers, f"layers_{i % period}"), i // period) for i in range(scanned)
  ] + [
    LayerAt(getattr(decoder.layers_remainder, f"layers_{i}"), None) for i in range(count - scanned)
  ]


def gather(layers: Sequence[LayerAt], param_scan_axis: int) -> tuple[Any, Any]:
  """Consecutive layers as one: a graphdef, and a tree of arrays with the layers in front.

  A stretch of one stack is a slice of it; anything else is stacked anew.
  """
  first = layers[0]
  graphdef = nnx.split(first.module)[0]
  if all(layer.module is first.module for layer in layers):
    return graphdef, _leading(first, len(layers), param_scan_axis)
  parts = [_leading(layer, 1, param_scan_axis) for layer in layers]
  return graphdef, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _leading(layer: LayerAt, count: int, param_scan_axis: int) -> Any:
  """The arrays of `count` layers of a module, from `layer` on, with the layers in front."""

  def take(variable: nnx.Variable) -> Array:
    array = variable[...]
    if layer.index is None:
      return array[None]
    axis = param_scan_axis if isinstance(variable, nnx.Param) and array.ndim > 1 else 0
    part = jax.lax.slice_in_dim(array, layer.index, layer.index + count, axis=axis)
    return jnp.moveaxis(part, axis, 0)

  is_variable = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
  return jax.tree.map(take, nnx.state(layer.module), is_leaf=is_variable)
