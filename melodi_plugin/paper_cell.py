"""The cell of the MELODI paper: short-term layers, and long-term layers with queue and gate.

SEMANTICS 1.3 and 1.4: how one layer's arithmetic (`paper_layer`) becomes the verbs of a cell, and
how a layer remembers within a segment.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.array_typing import Array, Bool, Context, Float, Heads, Int, Key, Summary
from melodi_plugin.cell import OpenWindow, Recall, Slots, WindowResult, join
from melodi_plugin.config import LayerSpec, MelodiConfig
from melodi_plugin.memory import LayerMemory, Update, replay, write_short
from melodi_plugin.paper_layer import (
  PaperLayer,
  context_shares,
  mix,
  project,
  split_key,
  transform,
)
from melodi_plugin.segments import Windows, reset


class Fixed(NamedTuple):
  """Constants of a segment: the old queue, projected once with the weights of this step."""

  queue_key: Heads  # B M N H
  queue_value: Heads


class State(NamedTuple):
  """What a layer hands from window to window: z, and the increments' keys and values so far."""

  short: Float[Array, "B S D"]
  key: Float[Array, "B K L N H"]
  value: Float[Array, "B K L N H"]


@dataclasses.dataclass(frozen=True)
class PaperCell:
  """Reads windows as the paper does.  `dtype` is the dtype of all activations."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32

  # -- The three verbs ----------------------------------------------------------------------------

  def recall(
    self, params: PaperLayer, memory: LayerMemory, held: Int[Array, "B"], key: Key | None = None
  ) -> Recall:
    """See `Cell.recall`."""
    short_key, long_key = split_key(key, 2)
    batch = held.shape[0]
    filled = self._filled(held)
    everywhere = jnp.ones((batch, self.spec.queue_tokens), bool)
    return Recall(
      short=self._recall_short(params, memory.short, held, short_key),
      long=Slots(
        *self._project_memory(params, memory.long, long_key),
        filled if self.config.mask_empty_slots else everywhere,
      ),
    )

  def open_window(self, batch: int) -> OpenWindow:
    """See `Cell.open_window`."""
    config, spec = self.config, self.spec
    heads = (batch, config.window_length, config.num_heads, config.head_dim)

    def zeros(tokens: int) -> Array:
      return jnp.zeros((batch, tokens, config.emb_dim), self.dtype)

    return OpenWindow(
      Slots(jnp.zeros(heads, self.dtype), jnp.zeros(heads, self.dtype), jnp.zeros(heads[:2], bool)),
      zeros(config.summary_tokens if spec.mixes_summary else 0),
      zeros(spec.short_tokens if spec.mixes_short else 0),
      zeros(spec.increment),
    )

  def context(
    self,
    params: PaperLayer,
    x: Float[Array, "B t D"],
    place: Int[Array, "B"],
    valid: Bool[Array, "B t"],
    recall: Recall,
    opened: OpenWindow,
    key: Key | None = None,
  ) -> tuple[Float[Array, "B t D"], OpenWindow]:
    """See `Cell.context`."""
    input_key, body_key = split_key(key, 2)
    query, new_key, new_value = project(params, self.config, x, input_key)

    def put(row, new, start):
      return jax.lax.dynamic_update_slice_in_dim(row, new, start, 0)

    tokens = Slots(
      *(
        jax.vmap(put)(row, new, place)
        for row, new in zip(opened.tokens, (new_key, new_value, valid), strict=True)
      )
    )
    places_Bt = self.spec.short_tokens + place[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)
    x = transform(
      params, self.config, x, query, places_Bt, join(recall.short, tokens), recall.long, body_key
    )
    shares = context_shares(params, self.config, x, valid, place)
    sums = [old + new for old, new in zip(opened[1:], shares, strict=True)]
    return x, OpenWindow(tokens, *sums)

  def close(
    self,
    params: PaperLayer,
    u: Summary,
    recall: Recall,
    opened: OpenWindow,
    key: Key | None = None,
  ) -> tuple[Summary, Update]:
    """See `Cell.close`."""
    input_key, body_key = split_key(key, 2)
    query, new_key, new_value = project(params, self.config, u, input_key)
    own = Slots(new_key, new_value, jnp.ones(u.shape[:2], bool))
    slots = join(recall.short, opened.tokens, own)
    u = transform(params, self.config, u, query, None, slots, recall.long, body_key)
    return mix(params, self.spec, u, opened[1:])

  # -- The verbs composed over a segment ----------------------------------------------------------

  def begin(
    self, params: PaperLayer, memory: LayerMemory, windows: Windows, key: Key | None = None
  ) -> tuple[Fixed, State]:
    """See `Cell.begin`."""
    num_windows, batch = windows.starts.shape
    config = self.config
    increments = jnp.zeros(
      (batch, num_windows, self.spec.increment, config.num_heads, config.head_dim), self.dtype
    )
    fixed = Fixed(*self._project_memory(params, memory.long, key))
    return fixed, State(memory.short, increments, increments)

  def window(
    self,
    params: PaperLayer,
    fixed: Fixed,
    state: State,
    x: Context,
    u: Summary,
    window: Windows,
    index: Int[Array, ""],
    key: Key | None = None,
  ) -> WindowResult:
    """See `Cell.window`."""
    short_key, input_key, body_key, increment_key = split_key(key, 4)
    short = reset(window.starts, state.short)
    recall = Recall(
      self._recall_short(params, short, window.held, short_key),
      self._recall_long(fixed, state, window),
    )
    tokens = jnp.concatenate([x, u], axis=1)
    query, own_key, own_value = project(params, self.config, tokens, input_key)
    valid = jnp.pad(window.valid, ((0, 0), (0, u.shape[1])), constant_values=True)
    own = Slots(own_key, own_value, valid)
    tokens = transform(
      params, self.config, tokens, query, None, join(recall.short, own), recall.long, body_key
    )
    x, u = jnp.split(tokens, [self.config.window_length], axis=1)
    shares = context_shares(params, self.config, x, window.valid)
    u, update = mix(params, self.spec, u, shares)

    new_key, new_value = self._project_memory(params, update.increment, increment_key)
    state = State(
      write_short(short, update, window.writes),
      jax.lax.dynamic_update_index_in_dim(state.key, new_key, index, 1),
      jax.lax.dynamic_update_index_in_dim(state.value, new_value, index, 1),
    )
    return WindowResult(state, x, u, update)

  def end(
    self, memory: LayerMemory, state: State, updates: Update, windows: Windows
  ) -> LayerMemory:
    """See `Cell.end`."""
    return LayerMemory(state.short, replay(memory.long, updates, windows))

  # -- Parts --------------------------------------------------------------------------------------

  def _project_memory(
    self, params: PaperLayer, tokens: Float[Array, "B t D"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of stored tokens; the compiler removes their unused queries."""
    return project(params, self.config, tokens.astype(self.dtype), key)[1:]

  def _filled(self, held: Int[Array, "B"]) -> Bool[Array, "B M"]:
    """The slots of a queue of M tokens that `held` windows have filled: its newest end."""
    from_end = self.spec.queue_tokens - jnp.arange(self.spec.queue_tokens, dtype=jnp.int32)
    return from_end[None] <= held[:, None] * self.spec.increment

  def _recall_short(
    self,
    params: PaperLayer,
    short: Float[Array, "B S D"],
    held: Int[Array, "B"],
    key: Key | None,
  ) -> Slots:
    visible = jnp.broadcast_to((held > 0)[:, None], short.shape[:2])
    if not self.config.mask_empty_slots:
      visible = jnp.ones_like(visible)
    return Slots(*self._project_memory(params, short, key), visible)

  def _recall_long(self, fixed: Fixed, state: State, window: Windows) -> Slots:
    """The queue as this window sees it, without moving it: old slots, then increments.

    The p windows pushed so far have evicted the first p * L old slots.  Old slots of another
    document are zero tokens, which have zero keys and values.
    """
    spec, batch = self.spec, window.pushed.shape[0]
    slot = jnp.arange(spec.queue_tokens, dtype=jnp.int32)[None]
    visible = slot >= window.pushed[:, None] * spec.increment
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
