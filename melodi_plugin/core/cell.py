"""The cell: the one interface through which every window is read.

A cell is what happens to one window in one layer.  Training, evaluation, prefill, decoding, the
baselines and all schedules go through it; a schedule walks cells and does not know what is in them.

Three verbs read a document, whoever calls them:

  context   tokens of the open window, any number at a time, given its earlier keys and values and
            what the layer remembers -> their outputs, and their share of the token mixers' sums;
  close     the U summary tokens of a full window -> their outputs, and an `Update`:
            the next short-term memory and the long-term increment;
  write     the `Update` into the memory (memory.write; it has no parameters).

`recall` turns memory into the keys and values that the first two attend to.  A decoder keeps a
`Recall` and an `OpenWindow` per layer, calls `context` with one token per step, and `close`,
`write`, `recall` when a window is full.

Three calls compose the verbs over a segment, for schedules:

  begin     once per layer and segment: what can be computed from the old memory before any window;
  window    context + close + write of one window, in one pass over [context | summary];
  end       once per layer and segment: the memory to carry on.

Everything is a pure function of pytrees, with the batch as first axis of every leaf, so a schedule
may scan or vmap over layers and windows in any order in which the cell of the previous window and
the cell of the layer below come first.  `params`, `fixed` and `state` are opaque to schedules.
"""

from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Context, Float, Heads, Int, Key, Summary
from melodi_plugin.core.memory import LayerMemory, Update
from melodi_plugin.core.segments import Windows

Params = TypeVar("Params", contravariant=True)
Fixed = TypeVar("Fixed")
State = TypeVar("State")


class Slots(NamedTuple):
  """Keys and values that a query may see besides those of its own window."""

  key: Heads
  value: Heads
  visible: Bool[Array, "B t"]


class Recall(NamedTuple):
  """Memory as attention sees it: short-term slots share a softmax with the window."""

  short: Slots
  long: Slots
  states: Float[Array, "B R D"] | None = None  # of a layer that rewrites what it remembers


class OpenWindow(NamedTuple):
  """A window that is being read: its keys and values so far, and its mixers' sums."""

  tokens: Slots  # W places
  summary_share: Float[Array, "B U D"]
  short_share: Float[Array, "B S D"]
  long_share: Float[Array, "B L D"]


class WindowResult(NamedTuple):
  """What the cell of one window hands on."""

  state: Any  # to the next window of this layer
  x: Context  # to the layer above
  u: Summary  # to the layer above
  update: Update  # to `end`


class Cell(Protocol[Params, Fixed, State]):
  """One layer's way to read a window.  All methods are pure."""

  def recall(
    self, params: Params, memory: LayerMemory, held: Int[Array, "B"], key: Key | None = None
  ) -> Recall:
    """Keys and values of the memory; `held` counts the windows that it holds."""
    ...

  def open_window(self, batch: int) -> OpenWindow:
    """A window of which nothing has been read."""
    ...

  def context(
    self,
    params: Params,
    x: Float[Array, "B t D"],
    place: Int[Array, "B"],
    valid: Bool[Array, "B t"],
    recall: Recall,
    opened: OpenWindow,
    key: Key | None = None,
  ) -> tuple[Float[Array, "B t D"], OpenWindow]:
    """Reads t tokens, of which the first stands at `place` (0 ... W-1) of its row's window.

    The t tokens must fit into the window, also of a row that has none (all of them not valid): a
    caller keeps the old window of a full row.
    """
    ...

  def close(
    self,
    params: Params,
    u: Summary,
    recall: Recall,
    opened: OpenWindow,
    key: Key | None = None,
  ) -> tuple[Summary, Update]:
    """Reads the summary tokens of a full window (or of a document's last, padded one)."""
    ...

  def begin(
    self, params: Params, memory: LayerMemory, windows: Windows, key: Key | None = None
  ) -> tuple[Fixed, State]:
    """What every window of the segment needs (constant), and the state before the first."""
    ...

  def window(
    self,
    params: Params,
    fixed: Fixed,
    state: State,
    x: Context,
    u: Summary,
    window: Windows,
    index: Int[Array, ""],
    key: Key | None = None,
  ) -> WindowResult:
    """Reads window `index` of the segment; `window` is that window's slice of the plan.

    `u` are the summary tokens, or what a layer of the stack told all (`tell`).
    """
    ...

  def tell(self, params: Params, state: State, window: Windows) -> Array | None:
    """What all layers read of this one's memory in a window, in the place of summary tokens.

    None but for a layer with feedback, whose stack is walked window by window.
    """
    ...

  def end(
    self, memory: LayerMemory, state: State, updates: Update, windows: Windows
  ) -> LayerMemory:
    """The memory after the segment; leaves of `updates` and `windows` have K in front."""
    ...


def join(*slots: Slots) -> Slots:
  """All slots, in order, as one row of keys and values."""
  return Slots(*(jnp.concatenate(leaves, axis=1) for leaves in zip(*slots, strict=True)))


def of_heads(slots: Slots, heads: slice) -> Slots:
  """The same slots as a range of the stored heads sees them."""
  return Slots(slots.key[:, :, heads], slots.value[:, :, heads], slots.visible)


def part(slots: Slots, place: Int[Array, "B"], count: int) -> Slots:
  """The `count` slots of each row that begin at its `place`."""

  def cut(leaf, start):
    return jax.lax.dynamic_slice_in_dim(leaf, start, count, 0)

  return Slots(*(jax.vmap(cut)(leaf, place) for leaf in slots))


def put[T](rows: T, new: T, place: Int[Array, "B"]) -> T:
  """The rows of `rows` with those of `new` written into them, each from its `place` on."""

  def write(row, part_of_it, start):
    return jax.lax.dynamic_update_slice_in_dim(row, part_of_it, start, 0)

  return jax.tree.map(lambda old, own: jax.vmap(write)(old, own, place), rows, new)
