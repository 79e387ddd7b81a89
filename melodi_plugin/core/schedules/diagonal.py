"""All cells with layer + window = t at once: few large turns, for where launches cost most.

A turn reads a window with every layer, each one window behind the layer below it: dynamic batching
inside one input (Looks et al. 2017, Sivtsov et al. 2025).  K windows take K + Y - 1 turns of Y
layers; in the first and last Y - 1 of them some layers have no window, read one for nothing, and
keep their state.  Without dropout: fast keys (`unsafe_rbg`) draw the same for all layers of a vmap.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Int
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.schedules.walk import Walk
from melodi_plugin.core.segments import Windows
from melodi_plugin.core.stack import Section


class Cells(NamedTuple):
  """What layers read in one turn; all leaves have layers in front."""

  window: Int[Array, "Y"]
  live: Bool[Array, "Y"]  # whether the layer has a window in this turn
  plan: Windows
  below: Streams

  def of(self, section: Section) -> "Cells":
    """Those of a section."""
    run = section.run
    return jax.tree.map(lambda leaf: leaf[run.first : run.first + run.length], self)


def by_diagonals(
  sections: Sequence[Section], streams: Streams, memories: Sequence[LayerMemory], walk: Walk
) -> tuple[Float[Array, "K B W D"], list[LayerMemory]]:
  """The context stream above all layers, and the memory after; leaves of streams have K first."""
  layers = jnp.concatenate([section.layers for section in sections])
  height, count = layers.shape[0], walk.indices.shape[0]
  begun = []
  for section, memory in zip(sections, memories, strict=True):

    def begin(params, memory, cell=section.cell):
      return cell.begin(params, memory, walk.windows)

    begun.append(jax.vmap(begin)(section.params, memory))
  fixed, states = zip(*begun, strict=True)

  def turn(carry, t):
    states, below = carry
    window = jnp.clip(t - layers, 0, count - 1)
    plan = jax.tree.map(lambda leaf: leaf[window], walk.windows)
    cells = Cells(window, window == t - layers, plan, below)
    after, above, pushed = [], [], []
    for section, own, state in zip(sections, fixed, states, strict=True):
      state, streams_above, new = _read(section, own, state, cells.of(section), walk)
      after.append(state)
      above.append(streams_above)
      pushed.append(new)
    above = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *above)
    # What is above a layer now is below the next one in the next turn.
    following = jnp.minimum(t + 1, count - 1)
    below = jax.tree.map(
      lambda bottom, leaf: jnp.concatenate([bottom[following][None], leaf[:-1]]), streams, above
    )
    return (tuple(after), below), (above.x[-1], pushed)

  # In the first turn only the lowest layer reads what it is given.
  below = jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * height), streams)
  turns = jnp.arange(count + height - 1, dtype=jnp.int32)
  (states, _), (x, pushed) = jax.lax.scan(turn, (states, below), turns)
  after = []
  for section, memory, state, new in zip(sections, memories, states, pushed, strict=True):

    def end(memory, state, new, number, cell=section.cell):
      own = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, number, count), new)
      return cell.end(memory, state, own, walk.windows)

    after.append(jax.vmap(end, in_axes=(0, 0, 1, 0))(memory, state, new, section.layers))
  return x[height - 1 :], after


def _read(
  section: Section, fixed: Any, state: Any, cells: Cells, walk: Walk
) -> tuple[Any, Streams, Any]:
  """One window with every layer of a section: states, streams above, and what is pushed."""

  @walk.remat
  def read(params, fixed, state, cell):
    # Or the flags would be made for all turns ahead, and kept, as in `WindowCell.window`.
    cell = jax.lax.optimization_barrier(cell)
    result = section.cell.window(params, fixed, state, cell.below, cell.plan, cell.window)
    state = jax.tree.map(lambda new, old: jnp.where(cell.live, new, old), result.state, state)
    return state, result.streams, result.pushed

  return jax.vmap(read)(section.params, fixed, state, cells)
