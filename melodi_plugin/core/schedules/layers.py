"""Layer outside, windows inside: for training on many chips.

With weights sharded over fsdp, XLA gathers a layer's weights again for every window
(docs/results.md, ahead-of-time compiles).
"""

from collections.abc import Sequence

import jax

from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.schedules.walk import Walk
from melodi_plugin.core.stack import Section


def by_layers(
  sections: Sequence[Section], streams: Streams, memories: Sequence[LayerMemory], walk: Walk
) -> tuple[Float[Array, "K B W D"], list[LayerMemory]]:
  """The context stream above all layers, and the memory after; leaves of streams have K first."""
  after = []
  for section, memory in zip(sections, memories, strict=True):

    def read_layer(streams, layer, cell=section.cell):
      params, memory, number = layer
      fixed, state = cell.begin(params, memory, walk.windows, walk.rng_of(number, -1))

      @walk.remat
      def read_window(params, fixed, state, streams, window, index):
        return cell.window(params, fixed, state, streams, window, index, walk.rng_of(number, index))

      def step(state, window):
        result = read_window(params, fixed, state, *window)
        return result.state, (result.streams, result.pushed)

      state, (streams, pushed) = jax.lax.scan(step, state, (streams, walk.windows, walk.indices))
      return streams, cell.end(memory, state, pushed, walk.windows)

    streams, memory = jax.lax.scan(read_layer, streams, (section.params, memory, section.layers))
    after.append(memory)
  return streams.x, after
