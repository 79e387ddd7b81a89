"""How the layers of the MELODI paper read; long-term ones through a gate."""

import dataclasses
from typing import Any, ClassVar, final

import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads, Rng
from melodi_plugin.core.attention import gate_heads, split_rng
from melodi_plugin.core.cell import KeyValues, Row
from melodi_plugin.systems.paper.layer import (
  PaperLayer,
  attend_to_row,
  attend_to_slots,
  finish,
  normed_input,
  project,
  remembered_heads,
)


@final
@dataclasses.dataclass(frozen=True)
class PaperReader:
  """Reads as the paper does (SEMANTICS 1.3)."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32
  mixes_inputs: ClassVar[bool] = False

  def remembered(
    self, params: PaperLayer, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Reader.remembered`."""
    return remembered_heads(params, self.config, tokens, rng)

  def read(
    self,
    params: PaperLayer,
    tokens: Float[Array, "B t D"],
    row: Row,
    long: KeyValues | None,
    rng: Rng | None,
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """See `Reader.read`."""
    config = self.config
    input_rng, own_rng, cross_rng, ffn_rng = split_rng(rng, 4)
    normed = normed_input(params, config, tokens, input_rng)
    query, key, value = project(params, config, normed)
    heads = attend_to_row(params, config, query, row.places, row.join(key, value), own_rng)
    if long is not None:
      assert params.gate is not None
      cross = attend_to_slots(params, config, query, long, cross_rng)
      heads = gate_heads(params.gate, heads, cross)
    above = finish(params, config, tokens, heads, ffn_rng)
    return above, KeyValues(key, value, row.valid)
