"""The cells of Transformer-XL and of the Memorizing Transformer (SEMANTICS 4.1 to 4.3).

They remember tokens as they are: a *cache* of the previous window in the place of short-term
memory, and, in a memory layer, a queue to which every window adds all its tokens.  Both are MELODI
with token mixers that change nothing.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Int, Key, Summary
from melodi_plugin.core.attention import gate_heads, split_key
from melodi_plugin.core.cell import Slots, join, put
from melodi_plugin.core.memory import Update
from melodi_plugin.core.window_cell import ALL_HEADS, Arrange, MelodiCell
from melodi_plugin.systems.cached.retrieval import retrieve
from melodi_plugin.systems.paper.layer import (
  PaperLayer,
  attend_to_row,
  finish,
  normed_input,
  project,
  remembered_heads,
)


class Cache(NamedTuple):
  """The previous window: what is stored of it, and its keys and values with this step's weights."""

  entries: Float[Array, "B W _"]
  key: Heads
  value: Heads


@dataclasses.dataclass(frozen=True)
class CachedCell[Params](MelodiCell[Params]):
  """A layer of Transformer-XL: a token sees the W tokens before it."""

  def body(self, params: Params) -> PaperLayer:
    """The parameters of attention and feed-forward network."""
    assert isinstance(params, PaperLayer)
    return params

  # -- What is stored: tokens, or keys and values --------------------------------------------------

  def entries(
    self, below: Float[Array, "B t D"], above: Float[Array, "B t D"], own: Slots
  ) -> Float[Array, "B t _"]:
    """The tokens below the layer, or their keys and values, head by head."""
    if not self.config.stores_pairs:
      return below
    pairs = jnp.concatenate([own.key, own.value], axis=-1)
    return pairs.reshape(*pairs.shape[:2], -1)

  def project_short(
    self, params: Params, tokens: Float[Array, "B S _"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of entries."""
    if not self.config.stores_pairs:
      return remembered_heads(self.body(params), self.config, tokens, key)
    heads = (*tokens.shape[:2], self.config.num_heads, 2 * self.config.head_dim)
    own_key, own_value = jnp.split(tokens.reshape(heads), 2, axis=-1)
    return own_key, own_value

  def project_long(
    self, params: Params, tokens: Float[Array, "B t _"], key: Key | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of the queue as it was before this segment, from which nothing is learned."""
    heads = self.project_short(params, tokens, key)
    # Stored keys and values are no function of the parameters anyway.
    return heads if self.config.stores_pairs else jax.lax.stop_gradient(heads)

  def shares(
    self,
    params: Params,
    entries: Float[Array, "B t _"],
    valid: Bool[Array, "B t"],
    place: Int[Array, "B"] | None = None,
  ) -> tuple[Array, Array, Array]:
    """The entries themselves, each at its place."""
    entries = jnp.where(valid[..., None], entries, 0)
    if place is not None:
      batch, length = entries.shape[0], self.config.window_length
      window = jnp.zeros((batch, length, entries.shape[2]), entries.dtype)
      entries = put(window, entries, place)

    def kept(tokens: int, width: int) -> Float[Array, "B o _"]:
      nothing = jnp.zeros((entries.shape[0], 0, width), entries.dtype)
      return entries if tokens else nothing

    config, spec = self.config, self.spec
    return (
      kept(0, config.emb_dim),
      kept(spec.short_tokens, config.short_width),
      kept(spec.increment, config.long_width),
    )

  def mix(
    self, params: Params, u: Summary, shares: tuple[Array, Array, Array]
  ) -> tuple[Summary, Update]:
    """Nothing is mixed."""
    return u, Update(shares[1], shares[2])

  # -- What windows hand on: keys and values, so that none is computed twice -----------------------

  def begin_short(self, params: Params, tokens: Float[Array, "B S _"], key: Key | None) -> Cache:
    """See `MelodiCell.begin_short`."""
    return Cache(tokens, *self.project_short(params, tokens.astype(self.dtype), key))

  def short_heads(self, params: Params, short: Cache, key: Key | None) -> tuple[Heads, Heads]:
    """See `MelodiCell.short_heads`."""
    return short.key, short.value

  def next_short(self, update: Update, own: Slots) -> Cache:
    """See `MelodiCell.next_short`."""
    tokens = slice(self.spec.short_tokens)
    return Cache(update.short, own.key[:, tokens], own.value[:, tokens])

  def stored_short(self, short: Cache) -> Float[Array, "B S _"]:
    """See `MelodiCell.stored_short`."""
    return short.entries

  def increment_heads(
    self, params: Params, update: Update, own: Slots, key: Key | None
  ) -> tuple[Heads, Heads]:
    """See `MelodiCell.increment_heads`."""
    tokens = slice(self.spec.increment)
    return own.key[:, tokens], own.value[:, tokens]

  # -- The layer -----------------------------------------------------------------------------------

  def read(
    self,
    params: Params,
    tokens: Float[Array, "B t D"],
    places: Int[Array, "B t"] | None,
    arrange: Arrange,
    long: Slots,
    key: Key | None,
  ) -> tuple[Float[Array, "B t D"], Slots]:
    """See `MelodiCell.read`."""
    body = self.body(params)
    input_key, heads_key, ffn_key = split_key(key, 3)
    normed = normed_input(body, self.config, tokens, input_key)
    query, new_key, new_value = project(body, self.config, normed)
    row = arrange(new_key, new_value, ALL_HEADS)
    heads = self.attend(params, normed, query, places, row, long, heads_key)
    above = finish(body, self.config, tokens, heads, ffn_key)
    return self.leave(tokens, above), row

  def attend(
    self,
    params: Params,
    normed: Float[Array, "B t D"],
    query: Heads,
    places: Int[Array, "B t"] | None,
    row: Slots,
    long: Slots,
    key: Key | None,
  ) -> Float[Array, "B t _ H"]:
    """The outputs of all heads; here those of attention to the cache and the window."""
    return self.attend_locally(params, query, places, row, key)

  def attend_locally(
    self,
    params: Params,
    query: Heads,
    places: Int[Array, "B t"] | None,
    row: Slots,
    key: Key | None,
  ) -> Heads:
    """Attention to the W tokens before a token."""
    return attend_to_row(
      self.body(params),
      self.config,
      query,
      places,
      row,
      key,
      reach=self.config.window_length,
      positions=self.spec.has_positions,
    )

  def leave(
    self, below: Float[Array, "B t D"], above: Float[Array, "B t D"]
  ) -> Float[Array, "B t D"]:
    """The residual stream above the layer."""
    return above


@dataclasses.dataclass(frozen=True)
class QueueCell(CachedCell[PaperLayer]):
  """The Memorizing Transformer's own layer: one softmax over the queue and the window."""

  def attend(
    self,
    params: PaperLayer,
    normed: Float[Array, "B t D"],
    query: Heads,
    places: Int[Array, "B t"] | None,
    row: Slots,
    long: Slots,
    key: Key | None,
  ) -> Heads:
    """No cache, no positions: the queue stands before the window in one row."""
    slots = long.key.shape[1]
    return attend_to_row(
      params,
      self.config,
      query,
      None if places is None else places + slots,
      join(long, row),
      None if self.config.reference_defects else key,  # the official layer drops no weights
      positions=False,
    )

  def leave(
    self, below: Float[Array, "B t D"], above: Float[Array, "B t D"]
  ) -> Float[Array, "B t D"]:
    """The official code adds the layer's input once more (SEMANTICS 4.2)."""
    return below + above if self.config.reference_defects else above


@dataclasses.dataclass(frozen=True)
class RetrievingCell(CachedCell[PaperLayer]):
  """The Memorizing Transformer with retrieval: k pairs of the queue, through a gate per head."""

  def attend(
    self,
    params: PaperLayer,
    normed: Float[Array, "B t D"],
    query: Heads,
    places: Int[Array, "B t"] | None,
    row: Slots,
    long: Slots,
    key: Key | None,
  ) -> Heads:
    """Attention to cache and window, and to what is retrieved."""
    own = self.attend_locally(params, query, places, row, key)
    found = retrieve(query, long, params.temperature, self.config.neighbors)
    assert params.gate is not None
    return gate_heads(params.gate, own, found)
