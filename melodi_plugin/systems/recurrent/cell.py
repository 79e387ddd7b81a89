"""The cell of the Block-Recurrent Transformer (SEMANTICS 4.4).

A recurrent layer's queue holds one window: the R states, which every window rewrites.  A document
begins with learned states.  With feedback, every layer reads the states of the recurrent one.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Context, Float, Heads, Int, Key, Summary
from melodi_plugin.core.attention import attend, split_key, unit_norm
from melodi_plugin.core.cell import OpenWindow, Recall, Slots, WindowResult, join
from melodi_plugin.core.memory import LayerMemory, Update, rewrite
from melodi_plugin.core.segments import Windows, reset, select_rows
from melodi_plugin.systems.cached.cell import Cache, CachedCell
from melodi_plugin.systems.paper.layer import PaperLayer, to_heads
from melodi_plugin.systems.recurrent.states import StateLayer, next_states, state_heads


class RecurrentLayer(NamedTuple):
  """Parameters of a layer that reads states, and perhaps has them."""

  tokens: PaperLayer  # its output projection reads the heads of both attentions
  cross: Float[Array, "*Y D NH"]  # queries of tokens to states
  cross_temperature: Float[Array, "*Y N"]
  states: StateLayer | None


class RecurrentState(NamedTuple):
  """What windows hand on."""

  short: Cache
  states: Float[Array, "B R D"]


@dataclasses.dataclass(frozen=True)
class RecurrentCell(CachedCell[RecurrentLayer]):
  """Transformer-XL with states: tokens read them, and every window rewrites them."""

  def body(self, params: RecurrentLayer) -> PaperLayer:
    """See `CachedCell.body`."""
    return params.tokens

  def attend(
    self,
    params: RecurrentLayer,
    normed: Float[Array, "B t D"],
    query: Heads,
    places: Int[Array, "B t"] | None,
    row: Slots,
    long: Slots,
    key: Key | None,
  ) -> Float[Array, "B t heads H"]:
    """The heads of attention to cache and window, then those of attention to the states."""
    own_key, cross_key = split_key(key, 2)
    cross = unit_norm(to_heads(self.config, normed, params.cross, "query_proj"))
    read = attend(
      cross,
      long.key,
      long.value,
      params.cross_temperature,
      long.visible[:, None],
      dropout_key=cross_key,
      dropout_rate=self.config.dropout_rate,
    )
    own = self.attend_locally(params, query, places, row, own_key)
    return jnp.concatenate([own, read], axis=2)

  def shares(
    self,
    params: RecurrentLayer,
    entries: Float[Array, "B t _"],
    valid: Bool[Array, "B t"],
    place: Int[Array, "B"] | None = None,
  ) -> tuple[Array, Array, Array]:
    """Entries go into the cache only; states are not collected token by token."""
    nothing, short, _ = super().shares(params, entries, valid, place)
    states = (entries.shape[0], self.spec.increment, self.config.long_width)
    return nothing, short, jnp.zeros(states, self.dtype)

  # -- The three verbs -----------------------------------------------------------------------------

  def recall(
    self, params: RecurrentLayer, memory: LayerMemory, held: Int[Array, "B"], key: Key | None = None
  ) -> Recall:
    """See `Cell.recall`; a layer without states reads those that its caller puts in."""
    short_key, begin_key = split_key(key, 2)
    short = self.begin_short(params, memory.short, begin_key)
    slots = self._recall_short(params, short, held, short_key)
    if params.states is None:
      return Recall(slots, Slots(slots.key[:, :0], slots.value[:, :0], slots.visible[:, :0]))
    states = self._states(params.states, memory.long.astype(self.dtype), held)
    return Recall(slots, self._state_slots(params.states, states), states)

  def close(
    self,
    params: RecurrentLayer,
    u: Summary,
    recall: Recall,
    opened: OpenWindow,
    key: Key | None = None,
  ) -> tuple[Summary, Update]:
    """See `Cell.close`."""
    seen = join(recall.short, opened.tokens)
    return u, Update(opened.short_share, self._next(params, recall.states, recall.long, seen))

  # -- Over a segment ------------------------------------------------------------------------------

  def begin(
    self, params: RecurrentLayer, memory: LayerMemory, windows: Windows, key: Key | None = None
  ) -> tuple[None, RecurrentState]:
    """See `Cell.begin`."""
    short = self.begin_short(params, memory.short, key)
    return None, RecurrentState(short, memory.long.astype(self.dtype))

  def window(
    self,
    params: RecurrentLayer,
    fixed: None,
    state: RecurrentState,
    x: Context,
    u: Float[Array, "B slots NH"],
    window: Windows,
    index: Int[Array, ""],
    key: Key | None = None,
  ) -> WindowResult:
    """See `Cell.window`."""
    short = reset(window.starts, state.short)
    recall = self._recall_short(params, short, window.held, None)
    states = state.states
    if params.states is not None:
      states = self._states(params.states, states, window.held)
    told = self.config.recurrence.feedback
    long = self._unpacked(u) if told else self._state_slots(params.states, states)

    def arrange(own_key: Heads, own_value: Heads, heads: slice) -> Slots:
      return join(recall, Slots(own_key, own_value, window.valid))

    above, row = self.read(params, x, None, arrange, long, key)
    own = Slots(*(leaf[:, self.spec.short_tokens :] for leaf in row))
    entries = self.shares(params, self.entries(x, above, own), window.valid)[1]
    update = Update(entries, self._next(params, states, long, row))
    after = RecurrentState(self.next_short(update, own), update.increment)
    before = RecurrentState(short, states)
    return WindowResult(rewrite(before, after, window.writes), above, u, update)

  def tell(
    self, params: RecurrentLayer, state: RecurrentState, window: Windows
  ) -> Float[Array, "B slots NH"] | None:
    """The keys of the states, then their values."""
    if not self.config.recurrence.feedback or params.states is None:
      return None
    slots = self._state_slots(params.states, self._states(params.states, state.states, window.held))
    told = jnp.concatenate([slots.key, slots.value], axis=1)
    return told.reshape(*told.shape[:2], -1)

  # -- Parts ---------------------------------------------------------------------------------------

  def _unpacked(self, told: Float[Array, "B slots NH"]) -> Slots:
    heads = told.reshape(*told.shape[:2], self.config.num_heads, self.config.head_dim)
    key, value = jnp.split(heads, 2, axis=1)
    return Slots(key, value, jnp.ones(key.shape[:2], bool))

  def _states(
    self, params: StateLayer, states: Float[Array, "B R D"], held: Int[Array, "B"]
  ) -> Float[Array, "B R D"]:
    """The states before a window: the learned ones where the document has no window yet."""
    learned = jnp.broadcast_to(params.initial.astype(states.dtype), states.shape)
    return select_rows(held == 0, learned, states)

  def _state_slots(self, params: StateLayer | None, states: Float[Array, "B R D"]) -> Slots:
    assert params is not None  # without feedback only a layer with states is a RecurrentCell
    key, value = state_heads(params, self.config, states)
    return Slots(key, value, jnp.ones(states.shape[:2], bool))

  def _next(
    self, params: RecurrentLayer, states: Float[Array, "B R D"] | None, own: Slots, tokens: Slots
  ) -> Float[Array, "B R D"]:
    """The states after a window that saw these tokens; a layer without states keeps none."""
    if params.states is None or states is None:
      return jnp.zeros((tokens.key.shape[0], 0, self.config.emb_dim), self.dtype)
    return next_states(params.states, self.config, states, own, tokens)
