"""The verbs of a whole stack: how an engine reads rows that are at different places.

  begin    from the memory of earlier segments to rows between two windows;
  restart  the rows that begin a document;
  context  the next tokens of every row's open window, any number at a time;
  close    the windows of the rows that are full; they open new ones;
  read     any number of tokens, over as many windows as they fill;
  take     some of the rows, by their places; `put` writes them back.

A row is exact at every token, not only between windows, and a full window stays open until its row
reads on: the last window of a finished text is never closed in vain.  What one layer tells all
others goes round in here, so neither engine nor schedule knows of it.  Everything has layers in
front of rows, section by section.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
  count: Int[Array, "B"]  # tokens of the open window, 0 ... W


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
    jnp.where(starts, 0, rows.count),
  )


def _begin(
  sections: Sequence[Section], memories: list[LayerMemory], held: Int[Array, "B"]
) -> OpenRows:
  recalls, opened = recall(sections, memories, held), _open(sections, held.shape[0])
  return OpenRows(memories, recalls, opened, held, jnp.zeros_like(held))


def recall(
  sections: Sequence[Section], memories: Sequence[LayerMemory], held: Int[Array, "B"]
) -> list[Recall]:
  """Keys and values of memory that comes without them; see `WindowCell.recall`."""
  recalls = []
  for section, own in zip(sections, memories, strict=True):

    def recall_layer(_, layer, cell=section.cell):
      params, memory = layer
      return None, cell.recall(params, memory, held)

    recalls.append(jax.lax.scan(recall_layer, None, (section.params, own))[1])
  return recalls


def context(
  sections: Sequence[Section],
  rows: OpenRows,
  x: Float[Array, "B t D"],
  valid: Bool[Array, "B t"],
) -> tuple[Float[Array, "B t D"], OpenRows]:
  """Reads t tokens of every row behind those of its open window; see `WindowCell.context`.

  The valid tokens of a row come first, and fit into its window.  A row without any stays as it is.
  """
  return _context(sections, rows, x, rows.count, valid)


def _context(
  sections: Sequence[Section],
  rows: OpenRows,
  x: Float[Array, "B t D"],
  place: Int[Array, "B"],
  valid: Bool[Array, "B t"],
) -> tuple[Float[Array, "B t D"], OpenRows]:
  """The same, with the first token of a row, valid or not, at `place` of its window."""
  told, opened = _told(sections, rows), []
  for section, recall, own in zip(sections, rows.recall, rows.opened, strict=True):

    def read_layer(x, layer, cell=section.cell):
      params, recall, own = layer
      return cell.context(params, x, place, valid, recall, own, told)

    def append_layer(own, new, cell=section.cell):
      return cell.append(own, new, place, valid)

    x, new = jax.lax.scan(read_layer, x, (section.params, recall, own))
    # Of all layers at once, where they lie: a scan that returned windows would copy them.
    opened.append(jax.vmap(append_layer)(own, new))
  count = rows.count + valid.sum(1, dtype=jnp.int32)
  return x, rows._replace(opened=opened, count=count)


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
      return u, cell.write(params, memory, recall, update, rows.held, full)

    u, (memory, recall) = jax.lax.scan(close_layer, u, (section.params, *own))
    memories.append(memory)
    recalls.append(recall)
  opened = _select(full, _open(sections, batch), rows.opened)
  held, count = rows.held + full.astype(jnp.int32), jnp.where(full, 0, rows.count)
  return OpenRows(memories, recalls, opened, held, count)


def read(
  sections: Sequence[Section],
  rows: OpenRows,
  x: Float[Array, "B P D"],
  valid: Bool[Array, "B P"],
  summary: Float[Array, "U D"],
) -> tuple[Float[Array, "B P D"], OpenRows]:
  """Reads up to P tokens of every row; windows that are full close before their row reads on.

  The valid tokens of a row come first; outputs at the others mean nothing.  Tokens are cut into
  frames of a window, each token at the place that it has there, so rows may be at any places of
  their windows: one program reads them all.
  """
  (batch, length, _), window = x.shape, sections[0].cell.config.window_length
  frames = -(-length // window) + 1  # one more than the tokens fill, for rows in mid-window
  start = jnp.where(rows.count == window, 0, rows.count)  # place of the first token

  def cut(leaf: Array) -> Array:
    """To their places in frames, which come first: (frames, B, W, ...)."""
    room = jnp.zeros((frames * window, *leaf.shape[2:]), leaf.dtype)
    shift = lambda own, at: jax.lax.dynamic_update_slice_in_dim(room, own, at, 0)  # noqa: E731
    placed = jax.vmap(shift)(leaf, start).reshape(batch, frames, window, *leaf.shape[2:])
    return jnp.moveaxis(placed, 1, 0)

  def read_frame(rows: OpenRows, frame: tuple[Array, Array]) -> tuple[OpenRows, Array]:
    x, valid = frame

    def go(rows: OpenRows) -> tuple[OpenRows, Array]:
      full = (rows.count == window) & valid.any(1)
      rows = close_if_any(sections, rows, summary, full)
      y, rows = _context(sections, rows, x, jnp.zeros(batch, jnp.int32), valid)
      return rows, y

    return jax.lax.cond(valid.any(), go, lambda rows: (rows, x), rows)

  rows, y = jax.lax.scan(read_frame, rows, (cut(x), cut(valid)))
  y = jnp.moveaxis(y, 0, 1).reshape(batch, frames * window, -1)
  back = lambda own, at: jax.lax.dynamic_slice_in_dim(own, at, length, 0)  # noqa: E731
  return jax.vmap(back)(y, start), rows


def close_if_any(
  sections: Sequence[Section], rows: OpenRows, summary: Float[Array, "U D"], full: Rows
) -> OpenRows:
  """`close`, at no cost where no row is full."""
  return jax.lax.cond(
    full.any(), lambda rows: close(sections, rows, summary, full), lambda rows: rows, rows
  )


def take(rows: OpenRows, places: Int[Array, "R"]) -> OpenRows:
  """The rows at these places."""
  return _over_rows(lambda leaf, axis: jnp.take(leaf, places, axis=axis, mode="clip"), rows)


def put(rows: OpenRows, places: Int[Array, "R"], new: OpenRows) -> OpenRows:
  """Rows with those at `places` rewritten; places behind the last row are dropped."""

  def write(leaf: Array, axis: int, own: Array) -> Array:
    at = (slice(None),) * axis + (places,)
    return leaf.at[at].set(own.astype(leaf.dtype), mode="drop")

  return _over_rows(write, rows, new)


def _over_rows(function: Callable[..., Any], rows: OpenRows, *others: OpenRows) -> OpenRows:
  """Maps (leaf, its axis of rows, leaves of others)."""
  axes = jax.tree.map(lambda _: 1, rows)._replace(held=0, count=0)
  return jax.tree.map(function, rows, axes, *others)


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
