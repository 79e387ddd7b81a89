"""The cell of a layer with memory, whatever block is inside it.

SEMANTICS 1.3 and 1.4: the verbs of a cell, and how a layer remembers within a segment.  A filling
says how tokens become keys and values, and how a layer reads tokens: `paper_cell`, `stock_cell`,
and, for the systems that MELODI is compared with, `cached_cell` and `recurrent_cell`.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.config.model import LayerSpec, MelodiConfig
from melodi_plugin.core.array_typing import Array, Bool, Context, Float, Heads, Int, Key, Summary
from melodi_plugin.core.attention import split_key
from melodi_plugin.core.branching import Mixers, context_shares, mix
from melodi_plugin.core.cell import (
  OpenWindow,
  Recall,
  Slots,
  WindowResult,
  join,
  of_heads,
  part,
  put,
)
from melodi_plugin.core.memory import LayerMemory, Update, replay, rewrite
from melodi_plugin.core.segments import Windows, reset

# Puts the keys and values of tokens, or those of a range of heads of them, into their row.
Arrange = Callable[[Heads, Heads, slice], Slots]
ALL_HEADS = slice(None)


class Fixed(NamedTuple):
  """Constants of a segment: the old queue, projected once with the weights of this step."""

  queue_key: Heads  # B M N H
  queue_value: Heads


class State(NamedTuple):
  """What a layer hands from window to window: z, and the increments' keys and values so far."""

  short: Any  # z, and what a filling hands on besides
  key: Float[Array, "B K L N H"]
  value: Float[Array, "B K L N H"]


@dataclasses.dataclass(frozen=True)
class MelodiCell[Params](abc.ABC):
  """Reads windows with short-term and long-term memory.  `dtype` is that of all activations.

  Tokens stand in a row [memory | context | summary] of S + W + U places.  The N of keys and values
  counts the heads that are stored, `MelodiConfig.stored_heads`.
  """

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32

  # -- What a filling provides ---------------------------------------------------------------------

  # Whether mixers read the context stream below the layer, as keys and values do, or above it.
  mixes_inputs: ClassVar[bool] = False

  @abc.abstractmethod
  def project_short(
    self, params: Params, tokens: Float[Array, "B S D"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of short-term memory."""

  @abc.abstractmethod
  def project_long(
    self, params: Params, tokens: Float[Array, "B t D"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of tokens of the long-term queue."""

  @abc.abstractmethod
  def read(
    self,
    params: Params,
    tokens: Float[Array, "B t D"],
    places: Int[Array, "B t"] | None,
    arrange: Arrange,
    long: Slots,
    key: Key | None,
  ) -> tuple[Float[Array, "B t D"], Slots]:
    """Runs t tokens through the layer; returns their outputs, and the row that they saw.

    `places` are those in the row; without them the tokens stand at its end.
    """

  # -- What a filling may do in its own way --------------------------------------------------------

  def entries(
    self, below: Float[Array, "B t D"], above: Float[Array, "B t D"], own: Slots
  ) -> Float[Array, "B t _"]:
    """What of t context tokens goes into memory, mixed; `own` are their keys and values."""
    return below if self.mixes_inputs else above

  def shares(
    self,
    params: Params,
    entries: Float[Array, "B t _"],
    valid: Bool[Array, "B t"],
    place: Int[Array, "B"] | None = None,
  ) -> tuple[Array, Array, Array]:
    """The share of t entries in the mixed tokens, see `branching.context_shares`."""
    assert isinstance(params, Mixers)  # a filling without mixers has a way of its own
    return context_shares(params, self.config, entries, valid, place)

  def mix(
    self, params: Params, u: Summary, shares: tuple[Array, Array, Array]
  ) -> tuple[Summary, Update]:
    """Closes a window, see `branching.mix`."""
    assert isinstance(params, Mixers)
    return mix(params, self.spec, u, shares)

  def begin_short(self, params: Params, tokens: Float[Array, "B S _"], key: Key | None) -> Any:
    """Short-term memory as windows hand it on, from what the last segment left."""
    return tokens

  def short_heads(self, params: Params, short: Any, key: Key | None) -> tuple[Heads, Heads]:
    """Its keys and values."""
    return self.project_short(params, short.astype(self.dtype), key)

  def next_short(self, update: Update, own: Slots) -> Any:
    """The same for the next window."""
    return update.short

  def stored_short(self, short: Any) -> Float[Array, "B S _"]:
    """What the next segment gets."""
    return short

  def increment_heads(
    self, params: Params, update: Update, own: Slots, key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of what a window added to the queue."""
    return self.project_long(params, update.increment, key)

  # -- The three verbs -----------------------------------------------------------------------------

  def recall(
    self, params: Params, memory: LayerMemory, held: Int[Array, "B"], key: Key | None = None
  ) -> Recall:
    """See `Cell.recall`."""
    short_key, begin_key, long_key = split_key(key, 3)
    everywhere = jnp.ones((held.shape[0], self.spec.queue_tokens), bool)
    short = self.begin_short(params, memory.short, begin_key)
    return Recall(
      short=self._recall_short(params, short, held, short_key),
      long=Slots(
        *self.project_long(params, memory.long.astype(self.dtype), long_key),
        self._filled(held) if self.config.mask_empty_slots else everywhere,
      ),
    )

  def open_window(self, batch: int) -> OpenWindow:
    """See `Cell.open_window`."""
    config, spec = self.config, self.spec
    heads = (batch, config.window_length, self.config.stored_heads, config.head_dim)

    def zeros(tokens: int, width: int = config.emb_dim) -> Array:
      return jnp.zeros((batch, tokens, width), self.dtype)

    return OpenWindow(
      Slots(jnp.zeros(heads, self.dtype), jnp.zeros(heads, self.dtype), jnp.zeros(heads[:2], bool)),
      zeros(config.summary_tokens if spec.mixes_summary else 0),
      zeros(spec.short_tokens if spec.mixes_short or not spec.mixed else 0, config.short_width),
      zeros(spec.increment, config.long_width),
    )

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
    """See `Cell.context`."""

    def arrange(new_key: Heads, new_value: Heads, heads: slice) -> Slots:
      new = Slots(new_key, new_value, valid)
      tokens = put(of_heads(opened.tokens, heads), new, place)
      return join(of_heads(recall.short, heads), tokens)

    short = self.spec.short_tokens
    places_Bt = short + place[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)
    above, row = self.read(params, x, places_Bt, arrange, recall.long, key)
    tokens = Slots(*(leaf[:, short:] for leaf in row))
    entries = self.entries(x, above, part(tokens, place, x.shape[1]))
    shares = self.shares(params, entries, valid, place)
    sums = [old + new for old, new in zip(opened[1:], shares, strict=True)]
    return above, OpenWindow(tokens, *sums)

  def close(
    self,
    params: Params,
    u: Summary,
    recall: Recall,
    opened: OpenWindow,
    key: Key | None = None,
  ) -> tuple[Summary, Update]:
    """See `Cell.close`."""

    def arrange(new_key: Heads, new_value: Heads, heads: slice) -> Slots:
      own = Slots(new_key, new_value, jnp.ones(u.shape[:2], bool))
      return join(of_heads(recall.short, heads), of_heads(opened.tokens, heads), own)

    u, _ = self.read(params, u, None, arrange, recall.long, key)
    return self.mix(params, u, opened[1:])

  # -- The verbs composed over a segment -----------------------------------------------------------

  def begin(
    self, params: Params, memory: LayerMemory, windows: Windows, key: Key | None = None
  ) -> tuple[Fixed, State]:
    """See `Cell.begin`."""
    num_windows, batch = windows.starts.shape
    increments = jnp.zeros(
      (batch, num_windows, self.spec.increment, self.config.stored_heads, self.config.head_dim),
      self.dtype,
    )
    short_key, long_key = split_key(key, 2)
    fixed = Fixed(*self.project_long(params, memory.long.astype(self.dtype), long_key))
    short = self.begin_short(params, memory.short, short_key)
    return fixed, State(short, increments, increments)

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
    """See `Cell.window`."""
    short_key, read_key, increment_key = split_key(key, 3)
    length = self.config.window_length
    short = reset(window.starts, state.short)
    recall = self._recall_short(params, short, window.held, short_key)
    valid = jnp.pad(window.valid, ((0, 0), (0, u.shape[1])), constant_values=True)

    def arrange(own_key: Heads, own_value: Heads, heads: slice) -> Slots:
      return join(of_heads(recall, heads), Slots(own_key, own_value, valid))

    tokens = jnp.concatenate([x, u], axis=1)
    long = self._recall_long(fixed, state, window)
    tokens, row = self.read(params, tokens, None, arrange, long, read_key)
    above, u = jnp.split(tokens, [length], axis=1)
    first = self.spec.short_tokens
    own = Slots(*(leaf[:, first : first + length] for leaf in row))
    shares = self.shares(params, self.entries(x, above, own), window.valid)
    u, update = self.mix(params, u, shares)

    new_key, new_value = self.increment_heads(params, update, own, increment_key)
    state = State(
      rewrite(short, self.next_short(update, own), window.writes),
      jax.lax.dynamic_update_index_in_dim(state.key, new_key, index, 1),
      jax.lax.dynamic_update_index_in_dim(state.value, new_value, index, 1),
    )
    return WindowResult(state, above, u, update)

  def tell(self, params: Params, state: Any, window: Windows) -> Array | None:
    """See `Cell.tell`."""
    return None

  def end(self, memory: LayerMemory, state: Any, updates: Update, windows: Windows) -> LayerMemory:
    """See `Cell.end`; `state` has a field `short`."""
    return LayerMemory(self.stored_short(state.short), replay(memory.long, updates, windows))

  # -- Parts ---------------------------------------------------------------------------------------

  def _filled(self, held: Int[Array, "B"]) -> Bool[Array, "B M"]:
    """The slots of a queue of M tokens that `held` windows have filled: its newest end."""
    from_end = self.spec.queue_tokens - jnp.arange(self.spec.queue_tokens, dtype=jnp.int32)
    return from_end[None] <= held[:, None] * self.spec.increment

  def _recall_short(
    self,
    params: Params,
    short: Any,
    held: Int[Array, "B"],
    key: Key | None,
  ) -> Slots:
    keys, values = self.short_heads(params, short, key)
    visible = jnp.broadcast_to((held > 0)[:, None], keys.shape[:2])
    if not self.config.mask_empty_slots:
      visible = jnp.ones_like(visible)
    return Slots(keys, values, visible)

  def _recall_long(self, fixed: Fixed, state: State, window: Windows) -> Slots:
    """The queue as this window sees it, without moving it: old slots, then increments.

    The p windows pushed so far have evicted the first p * L old slots.  Old slots of another
    document are zero tokens, which have zero keys and values.
    """
    spec, batch = self.spec, window.pushed.shape[0]
    slot = jnp.arange(spec.queue_tokens, dtype=jnp.int32)[None]
    evicted = 0 if self.config.reference_defects else window.pushed[:, None] * spec.increment
    visible = jnp.broadcast_to(slot >= evicted, (batch, spec.queue_tokens))
    if self.config.mask_empty_slots:
      old = jnp.where(window.carried, window.held - window.pushed, 0)
      visible &= self._filled(old)
    carried = window.carried[:, None, None, None]
    recent = jnp.repeat(window.recent, spec.increment, axis=1)
    seen = recent[:, :, None, None]  # what is not seen may be another document's, even NaN

    def flat(leaf: Float[Array, "B K L N H"]) -> Heads:
      return jnp.where(seen, leaf.reshape(batch, recent.shape[1], *leaf.shape[3:]), 0)

    return join(
      Slots(
        jnp.where(carried, fixed.queue_key, 0), jnp.where(carried, fixed.queue_value, 0), visible
      ),
      Slots(flat(state.key), flat(state.value), recent),
    )
