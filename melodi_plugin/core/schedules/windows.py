"""Window outside, layers inside: the order in which text comes.

A layer with feedback tells its memory to all layers, so it can be read in this order only.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.schedules.walk import Walk
from melodi_plugin.core.stack import Section, first_layer, first_told


def by_windows(
  sections: Sequence[Section], streams: Streams, memories: Sequence[LayerMemory], walk: Walk
) -> tuple[Float[Array, "K B W D"], list[LayerMemory]]:
  """The context stream above all layers, and the memory after; leaves of streams have K first."""
  begun = []
  for section, memory in zip(sections, memories, strict=True):

    def begin(_, layer, cell=section.cell):
      params, memory, number = layer
      return None, cell.begin(params, memory, walk.windows, walk.rng_of(number, -1))

    layers = section.params, memory, section.layers
    begun.append(jax.lax.scan(begin, None, layers)[1])
  fixed, states = zip(*begun, strict=True)

  def read_window(states, window):
    streams, plan, index = window
    seen, told = [], []
    for section, *layers in zip(sections, fixed, states, strict=True):
      params, own, state = first_layer((section.params, *layers))
      seen.append(section.cell.tell(params, own, state, plan))
      told.append(None if seen[-1] is None else section.cell.long.reads(seen[-1]))
    streams = streams._replace(told=first_told(told))
    after, pushed = [], []
    for section, own, *layers in zip(sections, seen, fixed, states, strict=True):

      @walk.remat
      def read_layer(streams, layer, cell=section.cell, own=own):
        params, fixed, state, number = layer
        rng = walk.rng_of(number, index)
        result = cell.window(params, fixed, state, streams, plan, index, rng, own)
        return result.streams, (result.state, result.pushed)

      xs = section.params, *layers, section.layers
      streams, (state, new) = jax.lax.scan(read_layer, streams, xs)
      after.append(state)
      pushed.append(new)
    return tuple(after), (streams.x, pushed)

  windows = streams, walk.windows, walk.indices
  states, (x_KBWD, pushed) = jax.lax.scan(read_window, states, windows)
  after = []
  for section, memory, state, new in zip(sections, memories, states, pushed, strict=True):
    # `pushed` came out with windows in front of layers.
    new = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), new)
    end = jax.vmap(section.cell.end, in_axes=(0, 0, 0, None))
    after.append(end(memory, state, new, walk.windows))
  return x_KBWD, after
