"""A segment in loops over rows, windows and layers: the slow, obvious truth for a system.

Padding is cut off instead of masked, and a document begins with a memory of its own.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.memory import LayerMemory, Memory
from melodi_plugin.core.stack import remembers
from melodi_plugin.systems.table import stored


@runtime_checkable
class ReadWindow(Protocol):
  """One layer, one window of one row."""

  def __call__(
    self,
    params: Any,
    spec: LayerSpec,
    config: MelodiConfig,
    x: Any,
    u: Any,
    memory: LayerMemory,
    held: int,
  ) -> tuple[Any, Any, LayerMemory]:
    """Reads n <= W tokens of text (n, D) and the summary tokens (U, D).

    Args:
      params: of the layer.
      spec: of the layer.
      config: of the stack.
      x: tokens of the window, from below the layer.
      u: summary tokens, from below the layer.
      memory: what the layer remembers of the document, without rows.
      held: windows of the document that were read before.

    Returns:
      x and u for the layer above, and the memory after the window.
    """
    ...


def read_segment(
  read_window: ReadWindow,
  layers: list[Any],
  config: MelodiConfig,
  x: Any,
  summary: Any,
  memory: Memory,
  positions: np.ndarray,
  segment_ids: np.ndarray,
) -> tuple[jax.Array, Memory]:
  """Reads one segment of every row; arguments as `schedules.segment.read_segment`, but for layers.

  `layers` has the parameters of one layer each; outputs at padding are zeros.
  """
  held = np.asarray(memory.windows)
  ys, shorts, longs, counts = [], [], [], []
  for row in range(x.shape[0]):
    own = jax.tree.map(lambda leaf, row=row: leaf[:, row], (memory.short, memory.long))
    document = _Row(read_window, layers, config, own[0], own[1], int(held[row]))
    ys.append(document.read(x[row], summary, positions[row], segment_ids[row]))
    for found, part in ((shorts, "short"), (longs, "long")):
      found.append(document.stacked(part, getattr(memory, part), row))
    counts.append(document.held)

  def join(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *trees)

  return jnp.stack(ys), Memory(join(shorts), join(longs), jnp.array(counts, jnp.int32))


class _Row:
  """A row: what its layers remember of the document that it is in."""

  def __init__(self, read_window: ReadWindow, layers, config: MelodiConfig, short, long, held: int):
    self.read_window, self.layers, self.config, self.held = read_window, layers, config, held
    self.stored = stored(config)
    first = {"short": 0, "long": 0}

    def take(name: str, tree: Any, own: Any) -> Any:
      if not remembers(own):
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _dtype(tree)), own)
      first[name] += 1
      return jax.tree.map(lambda leaf: leaf[first[name] - 1], tree)

    self.memory = [
      LayerMemory(take("short", short, own.short), take("long", long, own.long))
      for own in self.stored
    ]

  def read(self, x, summary, positions, segment_ids):
    """The outputs of all windows."""
    length, ys = self.config.window_length, []
    for first in range(0, x.shape[0], length):
      text = int((np.asarray(segment_ids[first : first + length]) > 0).sum())
      context, u = x[first : first + text], summary
      if text and int(positions[first]) == 0:
        self.memory, self.held = jax.tree.map(jnp.zeros_like, self.memory), 0
      if text:
        for index, (params, spec) in enumerate(zip(self.layers, self.config.layers, strict=True)):
          context, u, self.memory[index] = self.read_window(
            params, spec, self.config, context, u, self.memory[index], self.held
          )
        self.held += 1
      ys.append(jnp.concatenate([context, jnp.zeros((length - text, x.shape[1]), x.dtype)]))
    return jnp.concatenate(ys)

  def stacked(self, name: str, before: Any, row: int) -> Any:
    """What the layers that remember something remember, as `Memory` has it."""
    trees = [
      getattr(memory, name)
      for memory, own in zip(self.memory, self.stored, strict=True)
      if remembers(getattr(own, name))
    ]
    if not trees:
      return jax.tree.map(lambda leaf: leaf[:, row], before)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _dtype(tree: Any) -> Any:
  return next((leaf.dtype for leaf in jax.tree.leaves(tree)), jnp.float32)
