"""The cell: how one layer reads one window, whatever its reader and its memories are.

Four verbs read a document, whoever calls them (SEMANTICS 1.3 and 1.4):

  context  tokens of the open window, any number at a time -> their outputs, and what the window
           will keep of them: keys and values, and what memories are made of;
  append   that into the window;
  close    the U summary tokens of a full window -> their outputs, and an `Update`;
  write    the `Update` into the memory -> the memory, and the `Recall` of it.

`recall` makes keys and values of a memory that comes from somewhere else, `open` a window of which
nothing has been read, and `told` is what a layer with feedback tells all others.  `core.decoding`
has the same verbs for a whole stack.

Three calls compose the verbs over a segment, for schedules:

  begin    once per layer and segment: what can be computed from the old memory before any window;
  window   context + close + write of one window, in one pass over [context | summary];
  end      once per layer and segment: the memory to carry on.

A schedule may scan or vmap these over layers and windows in any order in which the cell of the
previous window and that of the layer below come first.
"""

import dataclasses
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Bool, Float, Int, Rng, Rows, Summary
from melodi_plugin.core.attention import split_rng
from melodi_plugin.core.cell import (
  KeyValues,
  LongMemory,
  OpenWindow,
  Reader,
  Recall,
  Row,
  ShortMemory,
  Streams,
  Update,
  join,
  put,
)
from melodi_plugin.core.memories.contents import Mixture
from melodi_plugin.core.memory import LayerMemory, rewrite
from melodi_plugin.core.segments import Windows, reset, select_rows

_STREAMS = ("below", "mixed")  # of an `OpenWindow`


class State(NamedTuple):
  """What a layer hands from window to window of a segment."""

  short: Any
  long: Any


class WindowResult(NamedTuple):
  """What the cell of one window hands on."""

  state: State  # to the next window
  streams: Streams  # to the layer above
  update: Update
  pushed: Any  # to `end`


@final
@dataclasses.dataclass(frozen=True)
class WindowCell[P]:
  """Reads windows.  `dtype` is that of all activations.

  Tokens stand in a row [memory | context | summary] of S + W + U places.
  """

  config: MelodiConfig
  spec: LayerSpec
  reader: Reader[P]
  short: ShortMemory[P]
  long: LongMemory[P]
  dtype: Any = jnp.float32

  @property
  def stored(self) -> LayerMemory:
    """The trees of `Stored` of what this layer remembers."""
    return LayerMemory(self.short.stored, self.long.stored)

  # -- The verbs -----------------------------------------------------------------------------------

  def recall(
    self, params: P, memory: LayerMemory, held: Int[Array, "B"], rng: Rng | None = None
  ) -> Recall:
    """Keys and values of the memory; `held` counts the windows that it holds."""
    begin_rng, short_rng, long_rng = split_rng(rng, 3)
    short = self.short.begin(self.reader, params, memory.short, begin_rng)
    return Recall(
      self._recall_short(params, short, held, short_rng),
      self.long.recall(self.reader, params, memory.long, held, long_rng),
    )

  def told(self, recall: Recall) -> KeyValues | None:
    """What all layers of the stack read of this one's memory: only with feedback."""
    return self.long.reads(recall.long) if self.long.tells else None

  def open(self, batch: int) -> OpenWindow:
    """A window of which nothing has been read."""
    heads = (batch, self.config.window_length, self.config.stored_heads, self.config.head_dim)
    empty = jnp.zeros(heads, self.dtype)

    def stream(name: str) -> Float[Array, "B _ D"]:
      places = self.config.window_length if name in self._kept else 0
      return jnp.zeros((batch, places, self.config.emb_dim), self.dtype)

    tokens = KeyValues(empty, empty, jnp.zeros(heads[:2], bool))
    return OpenWindow(tokens, stream("below"), stream("mixed"))

  def context(
    self,
    params: P,
    x: Float[Array, "B t D"],
    place: Int[Array, "B"],
    valid: Bool[Array, "B t"],
    recall: Recall,
    opened: OpenWindow,
    told: KeyValues | None = None,
    rng: Rng | None = None,
  ) -> tuple[Float[Array, "B t D"], OpenWindow]:
    """Reads t tokens, of which the first stands at `place` (0 ... W) of its row's window.

    What it gives besides their outputs goes to `append`, at once or for many layers together.
    """
    row = Row(recall.short, opened.tokens, place, valid)
    above, own = self.reader.read(params, x, row, self._reads(recall, told), rng)
    new = OpenWindow(own, x, self._mixed(x, above))
    unused = {name: getattr(new, name)[:, :0] for name in _STREAMS if name not in self._kept}
    return above, new._replace(**unused)

  def append(
    self, opened: OpenWindow, new: OpenWindow, place: Int[Array, "B"], valid: Bool[Array, "B t"]
  ) -> OpenWindow:
    """The window with the tokens that `context` has read at `place`.

    A token that is not valid leaves no trace, wherever it stands; its output means nothing.
    """

    def with_new[T](name: str, old: T, own: T) -> T:
      return put(old, own, place, valid) if name in self._kept else old

    return OpenWindow(
      put(opened.tokens, new.tokens, place, valid),
      with_new("below", opened.below, new.below),
      with_new("mixed", opened.mixed, new.mixed),
    )

  def close(
    self,
    params: P,
    u: Summary,
    recall: Recall,
    opened: OpenWindow,
    told: KeyValues | None = None,
    rng: Rng | None = None,
  ) -> tuple[Summary, Update]:
    """Reads the summary tokens of a full window (or of a document's last, padded one)."""
    if u.shape[1]:
      row = Row(recall.short, opened.tokens, None, jnp.ones(u.shape[:2], bool))
      u, _ = self.reader.read(params, u, row, self._reads(recall, told), rng)
    return self._finish(params, u, recall, opened)

  def write(
    self,
    params: P,
    memory: LayerMemory,
    recall: Recall,
    update: Update,
    held: Int[Array, "B"],
    writes: Rows,
    rng: Rng | None = None,
  ) -> tuple[LayerMemory, Recall]:
    """Memory after a closed window, and how the next one sees it; other rows keep both.

    `held` counts the windows that it holds before.  Nothing is projected but what is new: the same
    as `recall` of the memory, for a fraction.
    """
    short_rng, long_rng = split_rng(rng, 2)
    short = self.short.next(memory.short, update.short, held, recall.short, update.tokens)
    memory = LayerMemory(
      rewrite(memory.short, self.short.kept(short), writes),
      rewrite(memory.long, self.long.write(memory.long, update.long), writes),
    )
    new = Recall(
      self._recall_short(params, short, held + 1, short_rng),
      self.long.extend(self.reader, params, recall.long, memory.long, update.tokens, long_rng),
    )
    return memory, select_rows(writes, new, recall)

  # -- The verbs composed over a segment -----------------------------------------------------------

  def begin(
    self, params: P, memory: LayerMemory, windows: Windows, rng: Rng | None = None
  ) -> tuple[Any, State]:
    """What every window of the segment needs (constant), and the state before the first."""
    short_rng, long_rng = split_rng(rng, 2)
    short = self.short.begin(self.reader, params, memory.short, short_rng)
    fixed, long = self.long.begin(self.reader, params, memory.long, windows, long_rng)
    return fixed, State(short, long)

  def tell(self, params: P, fixed: Any, state: State, window: Windows) -> Any:
    """`LongMemory.seen` of a window of a segment, before any layer reads it: only with feedback."""
    return self.long.seen(params, fixed, state.long, window) if self.long.tells else None

  def window(
    self,
    params: P,
    fixed: Any,
    state: State,
    streams: Streams,
    window: Windows,
    index: Int[Array, ""],
    rng: Rng | None = None,
    seen: Any = None,
  ) -> WindowResult:
    """Reads window `index` of the segment; `window` is that window's slice of the plan.

    `seen` is what `tell` has given, if this layer has told it to all.
    """
    short_rng, read_rng, long_rng = split_rng(rng, 3)
    # A scan that is differentiated computes for all its turns, and keeps, whatever it can without
    # its streams: every mask of every window, broadcast to heads and channels.
    streams, window = jax.lax.optimization_barrier((streams, window))
    x, u, told = streams
    short = reset(window.starts, state.short)
    if seen is None:
      seen = self.long.seen(params, fixed, state.long, window)
    recall = Recall(self._recall_short(params, short, window.held, short_rng), seen)
    summary = jnp.ones(u.shape[:2], bool)
    nothing = KeyValues(*(leaf[:, :0] for leaf in self.open(x.shape[0]).tokens))
    row = Row(recall.short, nothing, None, jnp.concatenate([window.valid, summary], axis=1))
    tokens = jnp.concatenate([x, u], axis=1)
    tokens, own = self.reader.read(params, tokens, row, self._reads(recall, told), read_rng)

    above, u = jnp.split(tokens, [x.shape[1]], axis=1)
    own = KeyValues(*(leaf[:, : x.shape[1]] for leaf in own))
    read = OpenWindow(own, x, self._mixed(x, above))
    u, update = self._finish(params, u, recall, read)
    long, pushed = self.long.step(
      self.reader, params, state.long, update.long, own, window, index, long_rng
    )
    kept = self.short.kept(short)
    new = self.short.next(kept, update.short, window.held, recall.short, own)
    state = State(rewrite(short, new, window.writes), long)
    return WindowResult(state, Streams(above, u, told), update, pushed)

  def end(self, memory: LayerMemory, state: State, pushed: Any, windows: Windows) -> LayerMemory:
    """The memory after the segment; leaves of `pushed` and `windows` have K in front."""
    return LayerMemory(
      self.short.kept(state.short), self.long.end(memory.long, state.long, pushed, windows)
    )

  # -- Parts ---------------------------------------------------------------------------------------

  def _recall_short(
    self, params: P, short: Any, held: Int[Array, "B"], rng: Rng | None
  ) -> KeyValues:
    key, value = self.short.heads(self.reader, params, short, rng)
    seen = self.short.filled(held)
    return KeyValues(key, value, seen if self.config.mask_empty_slots else jnp.ones_like(seen))

  def _reads(self, recall: Recall, told: KeyValues | None) -> Any:
    return self.long.reads(recall.long) if told is None else told

  def _mixed(
    self, below: Float[Array, "B t D"], above: Float[Array, "B t D"]
  ) -> Float[Array, "B t D"]:
    """What mixers read."""
    return below if self.reader.mixes_inputs else above

  @property
  def _kept(self) -> frozenset[str]:
    """The streams that an open window keeps."""
    summary = "mixed" if self.spec.mixes_summary else ""
    return frozenset((self.short.keeps, self.long.keeps, summary))

  def _finish(
    self, params: P, u: Summary, recall: Recall, opened: OpenWindow
  ) -> tuple[Summary, Update]:
    """From the same u: the next layer's, the next window's memory, and the increment."""
    row = join(recall.short, opened.tokens)
    update = Update(
      opened.tokens,
      self.short.close(params, u, opened),
      self.long.close(self.reader, params, u, opened, recall.long, row),
    )
    if self.spec.mixes_summary:
      mixture = Mixture(self.config, "summary_mixer", self.config.summary_tokens, True, self.dtype)
      u = mixture.close(params, u, opened)
    return u, update
