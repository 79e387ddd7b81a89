"""Cells on top of each other, and the memory of all of them.

Layers of one spec form a `Section` whose parameters are stacked, so that they can be scanned.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.config.layers import Run
from melodi_plugin.core.array_typing import Array, Int
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.core.memory import LayerMemory, Memory, Stored
from melodi_plugin.core.window_cell import WindowCell


class Section(NamedTuple):
  """A run of equal layers: how they read a window, and their parameters, stacked."""

  run: Run
  cell: WindowCell
  params: Any  # every leaf has the run's layers in front

  @property
  def layers(self) -> Int[Array, "Y"]:
    """The numbers of its layers in the stack."""
    return self.run.first + jnp.arange(self.run.length, dtype=jnp.int32)


def stored(layers: Sequence[LayerMemory]) -> LayerMemory:
  """The trees of `Stored` of a stack, layers in front, from those of its layers.

  Raises ValueError where layers that remember something do not agree what.
  """

  def of_stack(name: str) -> Any:
    trees = [getattr(layer, name) for layer in layers]
    have = [tree for tree in trees if remembers(tree)] or trees[:1]
    if any(tree != have[0] for tree in have):
      raise ValueError(f"layers of one stack must store the same {name}-term memory, not {have}.")
    count = len(have) if remembers(have[0]) else 0
    return jax.tree.map(lambda leaf: Stored((count, *leaf.shape), (None, *leaf.axes)), have[0])

  return LayerMemory(of_stack("short"), of_stack("long"))


def empty(layers: Sequence[LayerMemory], batch: int, dtype: Any = jnp.float32) -> Memory:
  """The memory of `batch` rows that have read nothing; `layers` are the `stored` of all cells."""

  def zeros(leaf: Stored) -> Array:
    count, *shape = leaf.shape
    return jnp.zeros((count, batch, *shape), dtype)

  short, long = jax.tree.map(zeros, stored(layers))
  return Memory(short, long, jnp.zeros((batch,), jnp.int32))


def remembers(tree: Any) -> bool:
  """Whether there is anything in a tree of `Stored`."""
  return any(leaf.size for leaf in jax.tree.leaves(tree))


def split(memory: Memory, sections: Sequence[Section]) -> list[LayerMemory]:
  """Cuts the memory of a stack into that of its sections, layers in front of rows."""
  first = {"short": 0, "long": 0}

  def cut(name: str, section: Section) -> Any:
    own, count = getattr(section.cell.stored, name), section.run.length
    start = first[name]
    if remembers(own):
      first[name] += count
      return jax.tree.map(lambda leaf: leaf[start : start + count], getattr(memory, name))
    batch = memory.windows.shape[0]
    return jax.tree.map(lambda leaf: jnp.zeros((count, batch, *leaf.shape)), own)

  return [LayerMemory(cut("short", section), cut("long", section)) for section in sections]


def merge(parts: Sequence[LayerMemory], memory: Memory, sections: Sequence[Section]) -> Memory:
  """The inverse of `split`; `memory` is that of before."""

  def stack(name: str) -> Any:
    trees = [
      getattr(part, name)
      for part, section in zip(parts, sections, strict=True)
      if remembers(getattr(section.cell.stored, name))
    ]
    if not trees:
      return getattr(memory, name)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)

  return memory._replace(short=stack("short"), long=stack("long"))


def first_told(told: Iterable[KeyValues | None]) -> KeyValues | None:
  """What the one layer with feedback tells all layers; None without such a layer."""
  return next((own for own in told if own is not None), None)


def first_layer(tree: Any) -> Any:
  """The lowest layer of a section's parameters, memory or state."""
  return jax.tree.map(lambda leaf: leaf[0], tree)
