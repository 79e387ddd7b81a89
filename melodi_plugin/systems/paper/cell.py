"""The cell of the MELODI paper: its short-term layers, and its long-term layers with a gate."""

import dataclasses

from melodi_plugin.core.array_typing import Array, Float, Heads, Int, Key
from melodi_plugin.core.attention import gate_heads, split_key
from melodi_plugin.core.cell import Slots
from melodi_plugin.core.window_cell import ALL_HEADS, Arrange, MelodiCell
from melodi_plugin.systems.paper.layer import (
  PaperLayer,
  attend_to_row,
  attend_to_slots,
  finish,
  normed_input,
  project,
  remembered_heads,
)


@dataclasses.dataclass(frozen=True)
class PaperCell(MelodiCell[PaperLayer]):
  """Reads windows as the paper does (SEMANTICS 1.3)."""

  def project_short(
    self, params: PaperLayer, tokens: Float[Array, "B S D"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """See `MelodiCell.project_short`."""
    return remembered_heads(params, self.config, tokens, key)

  project_long = project_short

  def read(
    self,
    params: PaperLayer,
    tokens: Float[Array, "B t D"],
    places: Int[Array, "B t"] | None,
    arrange: Arrange,
    long: Slots,
    key: Key | None,
  ) -> tuple[Float[Array, "B t D"], Slots]:
    """See `MelodiCell.read`."""
    config = self.config
    input_key, own_key, cross_key, ffn_key = split_key(key, 4)
    normed = normed_input(params, config, tokens, input_key)
    query, new_key, new_value = project(params, config, normed)
    row = arrange(new_key, new_value, ALL_HEADS)
    heads = attend_to_row(params, config, query, places, row, own_key)
    if params.gate is not None:
      cross = attend_to_slots(params, config, query, long, cross_key)
      heads = gate_heads(params.gate, heads, cross)
    return finish(params, config, tokens, heads, ffn_key), row
