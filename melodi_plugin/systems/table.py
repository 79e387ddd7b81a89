"""Which cell reads a layer of a system, and which module holds its parameters: one table."""

from typing import Any, NamedTuple

from melodi_plugin.config.model import LayerSpec, MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT, MELODI
from melodi_plugin.systems.cached.cell import CachedCell, QueueCell, RetrievingCell
from melodi_plugin.systems.paper.cell import PaperCell
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.recurrent.cell import RecurrentCell
from melodi_plugin.systems.recurrent.params import RecurrentLayerParams


class Filling(NamedTuple):
  """How one layer reads windows, and its parameters."""

  cell: type[Any]
  params: type[Any]


MELODI_LAYER = Filling(PaperCell, PaperLayerParams)
CACHED_LAYER = Filling(CachedCell, PaperLayerParams)
QUEUE_LAYER = Filling(QueueCell, PaperLayerParams)
RETRIEVING_LAYER = Filling(RetrievingCell, PaperLayerParams)
RECURRENT_LAYER = Filling(RecurrentCell, RecurrentLayerParams)


def filling(config: MelodiConfig, spec: LayerSpec) -> Filling:
  """The filling of a layer of the paper's kind; stock blocks have their own (`stock_decoder`)."""
  if config.system == MELODI:
    return MELODI_LAYER
  if config.system == BLOCK_RECURRENT:
    reads = spec.increment or config.recurrence.feedback
    return RECURRENT_LAYER if reads else CACHED_LAYER
  if spec.increment:
    return RETRIEVING_LAYER if config.neighbors.count else QUEUE_LAYER
  return CACHED_LAYER
