"""The cell of the MELODI paper: short-term layers, and long-term layers with queue and gate.

SEMANTICS 1.3.  `PaperLayer` holds one layer's parameters; `PaperCell` is the arithmetic.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from melodi_plugin import attention, token_mixer
from melodi_plugin.array_typing import Array, Bool, Context, Float, Heads, Int, Key, Summary
from melodi_plugin.cell import OpenWindow, Recall, Slots, WindowResult, join
from melodi_plugin.config import LayerSpec, MelodiConfig
from melodi_plugin.memory import LayerMemory, Update, replay, write_short
from melodi_plugin.segments import Windows, reset
from melodi_plugin.token_mixer import TokenMixer


class PaperLayer(NamedTuple):
  """Parameters of one layer; heads are folded into one axis (N * H)."""

  attention_norm: Float[Array, "*Y D"]
  query: Float[Array, "*Y D NH"]
  key: Float[Array, "*Y D NH"]
  value: Float[Array, "*Y D NH"]
  out: Float[Array, "*Y NH D"]
  temperature: Float[Array, "*Y N"]
  position_bias: Float[Array, "*Y N buckets"] | None
  ffn_norm: Float[Array, "*Y D"]
  ffn_in: Float[Array, "*Y D F"]
  ffn_in_bias: Float[Array, "*Y F"]
  ffn_out: Float[Array, "*Y F D"]
  ffn_out_bias: Float[Array, "*Y D"]
  gate: Float[Array, "*Y N H"] | None
  summary_mixer: TokenMixer | None
  short_mixer: TokenMixer | None
  long_mixer: TokenMixer | None


class Fixed(NamedTuple):
  """Constants of a segment: the old queue, projected once with the weights of this step."""

  queue_key: Heads  # B M N H
  queue_value: Heads


class State(NamedTuple):
  """What a layer hands from window to window: z, and the increments' keys and values so far."""

  short: Float[Array, "B S D"]
  key: Float[Array, "B K L N H"]
  value: Float[Array, "B K L N H"]


def _split(key: Key | None, count: int) -> list[Any]:
  return [None] * count if key is None else list(jax.random.split(key, count))


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
    short_key, long_key = _split(key, 2)
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
    input_key, body_key = _split(key, 2)
    query, new_key, new_value = self._project(params, x, input_key)

    def put(row, new, start):
      return jax.lax.dynamic_update_slice_in_dim(row, new, start, 0)

    tokens = Slots(
      *(
        jax.vmap(put)(row, new, place)
        for row, new in zip(opened.tokens, (new_key, new_value, valid), strict=True)
      )
    )
    places_Bt = self.spec.short_tokens + place[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)
    x = self._body(params, x, query, places_Bt, join(recall.short, tokens), recall.long, body_key)
    shares = self._context_shares(params, x, valid, place)
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
    input_key, body_key = _split(key, 2)
    query, new_key, new_value = self._project(params, u, input_key)
    own = Slots(new_key, new_value, jnp.ones(u.shape[:2], bool))
    first = self.spec.short_tokens + self.config.window_length
    places = (first + jnp.arange(u.shape[1], dtype=jnp.int32))[None]
    slots = join(recall.short, opened.tokens, own)
    u = self._body(params, u, query, places, slots, recall.long, body_key)
    return self._mix(params, u, opened[1:])

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
    short_key, input_key, body_key, increment_key = _split(key, 4)
    short = reset(window.starts, state.short)
    recall = Recall(
      self._recall_short(params, short, window.held, short_key),
      self._recall_long(fixed, state, window),
    )
    tokens = jnp.concatenate([x, u], axis=1)
    query, own_key, own_value = self._project(params, tokens, input_key)
    valid = jnp.pad(window.valid, ((0, 0), (0, u.shape[1])), constant_values=True)
    own = Slots(own_key, own_value, valid)
    places = (self.spec.short_tokens + jnp.arange(tokens.shape[1], dtype=jnp.int32))[None]
    tokens = self._body(
      params, tokens, query, places, join(recall.short, own), recall.long, body_key
    )
    x, u = jnp.split(tokens, [self.config.window_length], axis=1)
    shares = self._context_shares(params, x, window.valid)
    u, update = self._mix(params, u, shares)

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

  def _project(
    self, params: PaperLayer, tokens: Float[Array, "B t D"], key: Key | None
  ) -> tuple[Heads, Heads, Heads]:
    """Queries, keys and values of tokens; queries and keys have length 1."""
    heads = (*tokens.shape[:2], self.config.num_heads, self.config.head_dim)
    normed = attention.rms_norm(tokens, params.attention_norm)
    normed = attention.dropout(key, self.config.dropout_rate, normed)

    def project(kernel: Float[Array, "D NH"], name: str) -> Heads:
      projected = jnp.einsum("BtD,Dn->Btn", normed, kernel.astype(normed.dtype))
      return checkpoint_name(projected.reshape(heads), name)

    return (
      attention.unit_norm(project(params.query, "query_proj")),
      attention.unit_norm(project(params.key, "key_proj")),
      project(params.value, "value_proj"),
    )

  def _project_memory(
    self, params: PaperLayer, tokens: Float[Array, "B t D"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of stored tokens; the compiler removes their unused queries."""
    return self._project(params, tokens.astype(self.dtype), key)[1:]

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

  def _body(
    self,
    params: PaperLayer,
    tokens: Float[Array, "B t D"],
    query: Heads,
    places: Int[Array, "b t"],
    slots: Slots,
    long: Slots,
    key: Key | None,
  ) -> Float[Array, "B t D"]:
    """Attention, gate, output projection and feed-forward network of t tokens.

    `slots` is the row [memory | context | summary]; a token at place i sees places below i.
    """
    own_key, cross_key, ffn_key = _split(key, 3)
    rate, config = self.config.dropout_rate, self.config
    key_places = jnp.arange(slots.key.shape[1], dtype=jnp.int32)
    bias = None if params.position_bias is None else self._bias(params.position_bias, places, slots)
    visible = slots.visible[:, None] & (key_places < places[..., None])
    heads = attention.attend(
      query,
      slots.key,
      slots.value,
      params.temperature,
      visible,
      bias,
      dropout_key=own_key,
      dropout_rate=rate,
    )
    if params.gate is not None:
      cross = attention.attend(
        query,
        long.key,
        long.value,
        params.temperature,
        long.visible[:, None],
        dropout_key=cross_key,
        dropout_rate=rate,
      )
      heads = attention.gate_heads(params.gate, heads, cross)
    heads = checkpoint_name(heads.reshape(*heads.shape[:2], -1), "context")
    attended = jnp.einsum("Btn,nD->BtD", heads, params.out.astype(self.dtype))
    tokens = tokens + checkpoint_name(attended, "out_proj")

    hidden = attention.rms_norm(tokens, params.ffn_norm)
    hidden = jnp.einsum("BtD,DF->BtF", hidden, params.ffn_in.astype(self.dtype))
    hidden = checkpoint_name(hidden + params.ffn_in_bias.astype(self.dtype), "mlpwi")
    fed = jnp.einsum("BtF,FD->BtD", jax.nn.relu(hidden), params.ffn_out.astype(self.dtype))
    fed = checkpoint_name(fed + params.ffn_out_bias.astype(self.dtype), "mlpwo")
    return tokens + attention.dropout(ffn_key, config.dropout_rate, fed)

  def _bias(
    self, table: Float[Array, "N buckets"], places: Int[Array, "b t"], slots: Slots
  ) -> Float[Array, "b N t s"]:
    num_slots = slots.key.shape[1]
    if places.shape[1] == self.config.mixer_inputs:  # a whole window with its summary
      return attention.t5_bias_of_window(table, places.shape[1], num_slots)
    return attention.t5_bias(table, places, num_slots)

  def _context_shares(
    self,
    params: PaperLayer,
    x: Float[Array, "B t D"],
    valid: Bool[Array, "B t"],
    place: Int[Array, "B"] | None = None,
  ) -> tuple[Array, Array, Array]:
    """The context's share of the summary, short and long mixers, padding left out.

    `place` tells where in its row's window the first token stands; without it x is the window.
    """
    x = jnp.where(valid[..., None], x, 0)

    def shared(mixer: TokenMixer | None) -> Float[Array, "B o D"]:
      if mixer is None:
        return jnp.zeros((x.shape[0], 0, x.shape[2]), x.dtype)
      kernel = mixer.kernel[: self.config.window_length]
      if place is not None:
        kernel = kernel[place[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)]
      return token_mixer.share(kernel, x, mixer.context_norm)

    return shared(params.summary_mixer), shared(params.short_mixer), shared(params.long_mixer)

  def _mix(
    self, params: PaperLayer, u: Summary, shares: tuple[Array, Array, Array]
  ) -> tuple[Summary, Update]:
    """Summary branching: from the same u, the next layer's u and the next window's memory."""
    summary_share, short_share, long_share = shares
    above, short, increment = u, u[:, : self.spec.short_tokens], long_share
    if params.summary_mixer is not None:
      above = token_mixer.finish(params.summary_mixer, summary_share, u, residual=True)
    if params.short_mixer is not None:
      short = token_mixer.finish(params.short_mixer, short_share, u, self.spec.residual_short)
    if params.long_mixer is not None:
      increment = token_mixer.finish(params.long_mixer, long_share, u, residual=False)
    return above, Update(short, increment)
