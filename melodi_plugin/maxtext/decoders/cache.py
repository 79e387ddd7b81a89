"""Rows in the middle of their windows, as state that MaxText's engine carries.

`MaxEngine` keeps what a model has as `nnx.Cache`, one slot per row, and knows nothing of it but the
last name of each variable: only `recurrent_state` may have any shape.  It steps every slot, also
those that hold nothing, so a flag stands beside the rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from maxtext.common.common_types import CACHE_BATCH, CACHE_BATCH_PREFILL

from melodi_plugin.core import decoding
from melodi_plugin.core.array_typing import Array, Bool, Float
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.core.decoding import OpenRows
from melodi_plugin.core.stack import Section

Axes = tuple[str | None, ...]


class EngineState(nnx.Module):
  """One array, under the name by which `MaxEngine` inserts it."""

  def __init__(self, shape: tuple[int, ...], dtype: Any, axes: Axes):
    self.recurrent_state = nnx.Cache(jnp.zeros(shape, dtype), out_sharding=axes)


@dataclasses.dataclass(frozen=True)
class _Layout:
  """How rows are made of their leaves; one object to NNX, which would open a tree."""

  structure: Any
  leaves: tuple[tuple[str, jax.ShapeDtypeStruct], ...]  # with their names


class CachedRows(nnx.Module):
  """`OpenRows` of N slots.

  A slot that `MaxEngine` has filled with zeros has not been begun: flags of what is visible are
  part of a row.

  Attributes:
    active: the slots that are read (N,), as numbers.
    memory_..., recall_..., opened_..., held, count: see `OpenRows`; absent where they are empty.
  """

  def __init__(self, like: OpenRows, *, prefill: bool):
    batch = CACHE_BATCH_PREFILL if prefill else CACHE_BATCH
    leaves = jax.tree_util.tree_leaves_with_path(like)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="_")  # noqa: E731
    self.layout = _Layout(
      jax.tree.structure(like), tuple((name(path), leaf) for path, leaf in leaves)
    )
    for (name, leaf), axes in zip(self.layout.leaves, row_axes(like, batch), strict=True):
      if leaf.size:
        setattr(self, name, EngineState(leaf.shape, leaf.dtype, axes))
    self.active = EngineState(like.count.shape, jnp.int32, (batch,))

  def get(self) -> OpenRows:
    """The rows."""
    leaves = [
      getattr(self, name).recurrent_state[...] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype)
      for name, leaf in self.layout.leaves
    ]
    return jax.tree.unflatten(self.layout.structure, leaves)

  def set(self, rows: OpenRows) -> None:
    """Stores the rows."""
    for (name, leaf), new in zip(self.layout.leaves, jax.tree.leaves(rows), strict=True):
      if leaf.size:
        getattr(self, name).recurrent_state[...] = new

  def prefill(
    self,
    sections: Sequence[Section],
    summary: Float[Array, "U D"],
    x: Float[Array, "N P D"],
    valid: Bool[Array, "N P"],
  ) -> Float[Array, "N P D"]:
    """Reads a prompt, or the next chunk of one; its slots are active then."""
    rows = self.get()
    fresh = (rows.held == 0) & (rows.count == 0)
    rows = jax.lax.cond(
      fresh.any(), lambda rows: decoding.restart(sections, rows, fresh), lambda rows: rows, rows
    )
    y, rows = decoding.read(sections, rows, x, valid, summary)
    self.set(rows)
    self.active.recurrent_state[...] = jnp.ones_like(rows.count)
    return y

  def step(
    self, sections: Sequence[Section], summary: Float[Array, "U D"], x: Float[Array, "N 1 D"]
  ) -> Float[Array, "N 1 D"]:
    """Reads one token of every active slot; the others stay as they are."""
    rows, active = self.get(), self.active.recurrent_state[...] > 0
    full = active & (rows.count == sections[0].cell.config.window_length)
    rows = decoding.close_if_any(sections, rows, summary, full)
    y, rows = decoding.context(sections, rows, x, active[:, None])
    self.set(rows)
    return y


def row_axes(like: OpenRows, batch: str) -> list[Axes]:
  """The logical axes of every leaf, those of MaxText's own caches; `batch` is that of the slots."""
  heads = (None, batch, "cache_sequence", "cache_heads", "cache_kv")
  axes: list[Axes] = []
  is_heads = lambda part: isinstance(part, KeyValues)  # noqa: E731
  for part in jax.tree.leaves(like, is_leaf=is_heads):
    if isinstance(part, KeyValues):
      axes += [heads, heads, heads[:3]]
    else:
      axes.append((batch,) if part.ndim == 1 else (None, batch, *(None,) * (part.ndim - 2)))
  return axes
