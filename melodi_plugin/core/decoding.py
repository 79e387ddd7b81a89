"""The verbs of a whole stack: how an engine reads rows that are at different places.

  begin    from the memory of earlier segments to rows between two windows;
  restart  the rows that begin a document;
  context  the next tokens of every row's open window, any number at a time;
  close    the windows of the rows that are full; they open new ones.

What one layer tells all others goes round in here, so neither engine nor schedule knows of it.
Everything has layers in front of rows, section by section.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Int, Rows
from melodi_plugin.core.cell import KeyValues, OpenWindow, Recall
from melodi_plugin.core.memory import LayerMemory, Memory
from melodi_plugin.core.segments import select_rows
from melodi_plugin.core.stack import Section, first_layer, first_told, merge, split


class OpenRows(NamedTuple):
  """Rows in the middle of their windows: all that is needed to go on."""

  memory: list[LayerMemory]
  recall: list[Recall]
  opened: list[OpenWindow]
  held: Int[Array, "B"]  # windows that memory holds


def begin(sections: Sequence[Section], memory: Memory) -> OpenRows:
  """Rows that are about to read the first token of a window.

  A row that begins a document must come with an empty memory that holds 0 windows.
  """
  return _begin(sections, split(memory, sections), memory.windows)


def restart(sections: Sequence[Section], rows: OpenRows, starts: Rows) -> OpenRows:
  """Rows in `starts` forget everything; the others stay as they are."""
  empty = jax.tree.map(jnp.zeros_like, rows.memory)
  fresh = _begin(sections, empty, jnp.zeros_like(rows.held))
  return OpenRows(
    _select(starts, fresh.memory, rows.memory),
    _select(starts, fresh.recall, rows.recall),
    _select(starts, fresh.opened, rows.opened),
    jnp.where(starts, 0, rows.held),
  )


def _begin(
  sections: Sequence[Section], memories: list[LayerMemory], held: Int[Array, "B"]
) -> OpenRows:
  recalls = []
  for section, own in zip(sections, memories, strict=True):

    def recall(_, layer, cell=section.cell):
      params, memory = layer
      return None, cell.recall(params, memory, held)

    recalls.append(jax.lax.scan(recall, None, (section.params, own))[1])
  return OpenRows(memories, recalls, _open(sections, held.shape[0]), held)


def context(
  sections: Sequence[Section],
  rows: OpenRows,
  x: Float[Array, "B t D"],
  place: Int[Array, "B"],
  valid: Bool[Array, "B t"],
) -> tuple[Float[Array, "B t D"], OpenRows]:
  """Reads t tokens of every row, the first at `place` of its window; see `WindowCell.context`.

  A row of which no token is valid stays as it is.
  """
  told, opened = _told(sections, rows), []
  for section, recall, own in zip(sections, rows.recall, rows.opened, strict=True):

    def read_layer(x, layer, cell=section.cell):
      params, recall, own = layer
      return cell.context(params, x, place, valid, recall, own, told)

    x, new = jax.lax.scan(read_layer, x, (section.params, recall, own))
    opened.append(new)
  return x, rows._replace(opened=opened)


def close(
  sections: Sequence[Section], rows: OpenRows, summary: Float[Array, "U D"], full: Rows
) -> OpenRows:
  """Closes the windows of the rows in `full` and opens new ones; the others stay as they are."""
  batch, told = full.shape[0], _told(sections, rows)
  dtype = sections[0].cell.dtype
  u = jnp.broadcast_to(summary.astype(dtype), (batch, *summary.shape))
  memories, recalls = [], []
  for section, *own in zip(sections, rows.memory, rows.recall, rows.opened, strict=True):

    def close_layer(u, layer, cell=section.cell):
      params, memory, recall, opened = layer
      u, update = cell.close(params, u, recall, opened, told)
      return u, cell.write(params, memory, recall, update, full)

    u, (memory, recall) = jax.lax.scan(close_layer, u, (section.params, *own))
    memories.append(memory)
    recalls.append(recall)
  opened = _select(full, _open(sections, batch), rows.opened)
  return OpenRows(memories, recalls, opened, rows.held + full.astype(jnp.int32))


def memory_of(sections: Sequence[Section], rows: OpenRows, before: Memory) -> Memory:
  """What rows between two windows carry to a segment; `before` is what they began with."""
  return merge(rows.memory, before, sections)._replace(windows=rows.held)


def _open(sections: Sequence[Section], batch: int) -> list[OpenWindow]:
  """Windows of which nothing has been read, of all layers."""

  def of_all(section: Section) -> OpenWindow:
    opened = section.cell.open(batch)
    return jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf, (section.run.length, *leaf.shape)), opened
    )

  return [of_all(section) for section in sections]


def _select[T](flags: Rows, on: list[T], off: list[T]) -> list[T]:
  """Per row, `on` where the flag is set and `off` elsewhere, section by section."""
  of_layers = jax.vmap(lambda new, old: select_rows(flags, new, old))
  return [of_layers(*own) for own in zip(on, off, strict=True)]


def _told(sections: Sequence[Section], rows: OpenRows) -> KeyValues | None:
  return first_told(
    section.cell.told(first_layer(recall))
    for section, recall in zip(sections, rows.recall, strict=True)
  )
