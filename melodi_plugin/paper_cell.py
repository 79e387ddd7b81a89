"""The cell of the MELODI paper: its short-term layers, and its long-term layers with a gate."""

import dataclasses

from melodi_plugin.array_typing import Array, Float, Heads, Int, Key
from melodi_plugin.attention import split_key
from melodi_plugin.cell import Slots
from melodi_plugin.melodi_cell import ALL_HEADS, Arrange, MelodiCell
from melodi_plugin.paper_layer import PaperLayer, project, transform


@dataclasses.dataclass(frozen=True)
class PaperCell(MelodiCell[PaperLayer]):
  """Reads windows as the paper does (SEMANTICS 1.3)."""

  def project_short(
    self, params: PaperLayer, tokens: Float[Array, "B S D"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """See `MelodiCell.project_short`; the compiler removes the unused queries."""
    return project(params, self.config, tokens, key)[1:]

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
    input_key, body_key = split_key(key, 2)
    query, new_key, new_value = project(params, self.config, tokens, input_key)
    row = arrange(new_key, new_value, ALL_HEADS)
    return transform(params, self.config, tokens, query, places, row, long, body_key), row
