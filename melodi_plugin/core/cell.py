"""The parts of a cell, and what passes between them.

A cell is what happens to one window in one layer.  It has three parts, of which none knows the
others' policy:

  reader  how the layer reads tokens, given the keys and values of what is remembered;
  short   short-term memory: a few tokens in the same softmax as the window;
  long    long-term memory: anything that the reader knows how to read.

`window_cell.WindowCell` puts them together; `systems.table` says which parts a system has.

Everything is a pure function of pytrees, with the batch as first axis of every leaf.  What a memory
hands from window to window and leaves behind is its own business: these trees are opaque to cells,
schedules and engines.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Context, Float, Heads, Int, Rng, Summary
from melodi_plugin.core.segments import Windows

ALL_HEADS = slice(None)


class KeyValues(NamedTuple):
  """Keys and values of s tokens.  N counts the heads that are stored."""

  key: Heads
  value: Heads
  visible: Bool[Array, "B s"]


def join(*parts: KeyValues) -> KeyValues:
  """All of them, in order."""
  return KeyValues(*(jnp.concatenate(leaves, axis=1) for leaves in zip(*parts, strict=True)))


def of_heads(tokens: KeyValues, heads: slice) -> KeyValues:
  """The same tokens as a range of the stored heads sees them."""
  return KeyValues(tokens.key[:, :, heads], tokens.value[:, :, heads], tokens.visible)


def put[T](rows: T, new: T, place: Int[Array, "B"], valid: Bool[Array, "B t"]) -> T:
  """The rows of `rows` with `new` written into them, row b from `place[b]` on.

  What is not valid, or would stand behind the end of its row, is not written.
  """

  def write(old: Array, own: Array) -> Array:
    batch, length = old.shape[:2]
    at = place[:, None] + jnp.arange(own.shape[1], dtype=jnp.int32)
    at = jnp.where(valid, at, length)
    rows = jnp.arange(batch, dtype=jnp.int32)[:, None]
    return old.at[rows, at].set(own.astype(old.dtype), mode="drop")

  return jax.tree.map(write, rows, new)


class Streams(NamedTuple):
  """What goes up the stack in one window."""

  x: Context
  u: Summary
  told: KeyValues | None = None  # memory of one layer that all layers read (feedback)


class Row(NamedTuple):
  """The row [memory | window | summary] as t tokens find it that are about to be read."""

  short: KeyValues  # S places
  window: KeyValues  # W places of an open window; none if a whole window is read at once
  place: Int[Array, "B"] | None  # where in the window the tokens stand; None: behind it
  valid: Bool[Array, "B t"]  # the tokens that are text

  def join(self, key: Heads, value: Heads, heads: slice = ALL_HEADS) -> KeyValues:
    """The whole row, with the keys and values of the tokens; perhaps only a range of its heads."""
    short, window = of_heads(self.short, heads), of_heads(self.window, heads)
    own = KeyValues(key, value, self.valid)
    if self.place is None:
      return join(short, window, own)
    return join(short, put(window, own, self.place, self.valid))

  @property
  def places(self) -> Int[Array, "B t"] | None:
    """The places of the tokens in the whole row; None if they stand at its end."""
    if self.place is None:
      return None
    first = self.short.key.shape[1] + self.place
    return first[:, None] + jnp.arange(self.valid.shape[1], dtype=jnp.int32)


class Recall(NamedTuple):
  """Memory as a window sees it."""

  short: KeyValues  # in one softmax with the window
  long: Any  # what `LongMemory.recall` makes


class OpenWindow(NamedTuple):
  """A window that is being read: W places, of which some hold text.

  What memories are made of is kept token by token and summed when the window closes.  So a window
  is the same, bit for bit, in however many pieces it was read.
  """

  tokens: KeyValues  # visible where there is text
  below: Float[Array, "B _ D"]  # the stream below the layer; no places if nothing is made of it
  mixed: Float[Array, "B _ D"]  # what mixers read; no places without mixers


class Update(NamedTuple):
  """What a closed window leaves behind in one layer."""

  tokens: KeyValues  # of its W context tokens
  short: Any  # what goes into short-term memory
  long: Any  # what goes into long-term memory


@runtime_checkable
class Reader[P](Protocol):
  """How a layer reads tokens; `params` are those of the layer."""

  @property
  def mixes_inputs(self) -> bool:
    """Whether mixers read the context below the layer, not above it."""
    ...

  def remembered(
    self, params: P, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of tokens in memory; `where` is 'short' or 'long'.

    Or 'pairs', if the short-term memory of this reader has a cache of them: these are keys and
    values already, as they were in their windows (`memories.short_term.MixedBesideCache`).
    """
    ...

  def read(
    self, params: P, tokens: Float[Array, "B t D"], row: Row, long: Any, rng: Rng | None
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """Runs t tokens through the layer: their outputs, and their keys and values.

    These are visible where `row.valid`.  `long` is what `LongMemory.reads` gives, or what another
    layer tells all.
    """
    ...


@runtime_checkable
class ShortMemory[P](Protocol):
  """What stands before the window in its row.  S may be 0.

  `kept` is what is stored between segments, `state` what windows of one segment hand on.
  """

  @property
  def stored(self) -> Any:
    """The tree of `Stored` of one layer."""
    ...

  @property
  def keeps(self) -> str:
    """What it is made of besides keys and values: 'mixed', 'below' (see `OpenWindow`), or ''."""
    ...

  def begin(self, reader: Reader[P], params: P, kept: Any, rng: Rng | None) -> Any:
    """The state before the first window."""
    ...

  def heads(self, reader: Reader[P], params: P, state: Any, rng: Rng | None) -> tuple[Heads, Heads]:
    """Keys and values (B, S, N, H)."""
    ...

  def close(self, params: P, u: Summary, window: OpenWindow) -> Any:
    """What a window leaves to the next; `u` as the layer has read them."""
    ...

  def filled(self, held: Int[Array, "B"]) -> Bool[Array, "B S"]:
    """The places that `held` windows have filled."""
    ...

  def next(
    self, kept: Any, new: Any, held: Int[Array, "B"], row: KeyValues, tokens: KeyValues
  ) -> Any:
    """The state after a window.

    Args:
      kept: what was stored before it.
      new: what `close` has made of it.
      held: windows that were read before it.
      row: the keys and values of `kept`.
      tokens: those of the window.
    """
    ...

  def kept(self, state: Any) -> Any:
    """What is stored of a state."""
    ...


@runtime_checkable
class LongMemory[P](Protocol):
  """What a layer remembers for longer.

  `kept` is what is stored between segments; `seen` is memory as one window sees it (a tree,
  rows first); `new` is what a window adds.  If every window rewrites all of it,
  `memories.rewritten.Rewritten` makes one of a `Rule`.
  """

  @property
  def tells(self) -> bool:
    """Whether every layer of the stack reads it (feedback); at most one layer of a stack."""
    ...

  @property
  def stored(self) -> Any:
    """The tree of `Stored` of one layer; () if nothing is remembered."""
    ...

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    ...

  def recall(
    self, reader: Reader[P], params: P, kept: Any, held: Int[Array, "B"], rng: Rng | None
  ) -> Any:
    """`seen`, from what is stored; `held` counts the windows that it holds."""
    ...

  def reads(self, seen: Any) -> Any:
    """What of it `Reader.read` gets."""
    ...

  def close(
    self,
    reader: Reader[P],
    params: P,
    u: Summary,
    window: OpenWindow,
    seen: Any,
    row: KeyValues,
  ) -> Any:
    """`new`; `row` are short-term memory and the tokens of the window."""
    ...

  def write(self, kept: Any, new: Any) -> Any:
    """What is stored after a window, for rows that read text in it."""
    ...

  def extend(
    self, reader: Reader[P], params: P, seen: Any, kept: Any, tokens: KeyValues, rng: Rng | None
  ) -> Any:
    """`seen` after a window of these tokens, in rows that read text in it.

    The same as `recall` of `kept`, which `write` has given, at the cost of what is new in it.
    """
    ...

  def begin(
    self, reader: Reader[P], params: P, kept: Any, windows: Windows, rng: Rng | None
  ) -> tuple[Any, Any]:
    """For a segment: constants of all its windows, and the state before the first."""
    ...

  def seen(self, params: P, fixed: Any, state: Any, window: Windows) -> Any:
    """Memory as this window of the segment sees it; empty where a document starts."""
    ...

  def step(
    self,
    reader: Reader[P],
    params: P,
    state: Any,
    new: Any,
    tokens: KeyValues,
    window: Windows,
    index: Int[Array, ""],
    rng: Rng | None,
  ) -> tuple[Any, Any]:
    """The state after window `index`, and what of it `end` needs besides the last state."""
    ...

  def end(self, kept: Any, state: Any, pushed: Any, windows: Windows) -> Any:
    """What is stored after the segment; leaves of `pushed` and `windows` have K in front."""
    ...
