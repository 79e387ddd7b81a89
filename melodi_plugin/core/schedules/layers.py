"""Layer outside, windows inside: for training on many chips.

Weights of which every device has a part come together once per layer and pass (`Weights`), before
its windows; left to XLA they would in every window.
"""

from collections.abc import Sequence

import jax
from jax.ad_checkpoint import checkpoint_name

from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.schedules.walk import Walk
from melodi_plugin.core.stack import Section

# Names for policies: what a layer is given, and what it hands from window to window.
INPUT = "decoder_layer_input"  # MaxText's
STATE = "window_state"


def by_layers(
  sections: Sequence[Section], streams: Streams, memories: Sequence[LayerMemory], walk: Walk
) -> tuple[Float[Array, "K B W D"], list[LayerMemory]]:
  """The context stream above all layers, and the memory after; leaves of streams have K first."""
  after = []
  for place, (section, memory) in enumerate(zip(sections, memories, strict=True)):

    def read_layer(streams, layer, cell=section.cell, place=place):
      params, memory, number = layer
      streams = _named(streams, INPUT)
      if walk.weights:
        params = walk.weights.whole(place, params)
      fixed, state = cell.begin(params, memory, walk.windows, walk.rng_of(number, -1))

      @walk.remat
      def read_window(params, fixed, state, streams, window, index):
        return cell.window(params, fixed, state, streams, window, index, walk.rng_of(number, index))

      def step(state, window):
        result = read_window(params, fixed, state, *window)
        return _named(result.state, STATE), (result.streams, result.pushed)

      state, (streams, pushed) = jax.lax.scan(step, state, (streams, walk.windows, walk.indices))
      return streams, cell.end(memory, state, pushed, walk.windows)

    if walk.weights:
      read_layer = walk.weights.remat(read_layer)
    streams, memory = jax.lax.scan(read_layer, streams, (section.params, memory, section.layers))
    after.append(memory)
  return streams.x, after


def _named[T](tree: T, name: str) -> T:
  return jax.tree.map(lambda leaf: checkpoint_name(leaf, name), tree)
