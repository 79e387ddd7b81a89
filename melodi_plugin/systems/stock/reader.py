"""How a stock block reads: any decoder layer that lets its attention core be replaced.

The block runs its own `__call__` on [context | summary]; each of its attentions calls our core,
which sees finished queries, keys and values (norms, RoPE and head groups are the block's business)
and adds those of memory.  Memory never passes through the block's feed-forward network.

Two things differ from the paper, because the block is trained already.  Memory is mixed from the
layer's inputs, which its norm and projections know, not from its outputs.  And the first token of a
window sees no memory: pretrained layers rest their attention on the first token they see, which is
such a sink only as long as it sees nothing but itself (Xiao et al., ICLR 2024).  Where the
document's own first tokens stay in sight as sinks, every token of a window sees memory.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, final, runtime_checkable

import jax
import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Int, Rng
from melodi_plugin.core.attention import MASKED_LOGIT, wide_dtype
from melodi_plugin.core.cell import KeyValues, Row, of_heads
from melodi_plugin.core.many_slots import How, are_many, attend_to_many
from melodi_plugin.core.memories.contents import split_pairs
from melodi_plugin.core.token_mixer import TokenMixer

KeyHeads = Float[Array, "B t G H"]  # fewer heads of keys and values than of queries
Core = Callable[[Heads, KeyHeads, KeyHeads], Heads]


class Attention(NamedTuple):
  """What one attention of a block does besides softmax(q.k) v, between context tokens."""

  sliding_window: int | None = None  # tokens that a query sees, itself included
  soft_cap: float | None = None  # logits l become cap * tanh(l / cap)


@runtime_checkable
class Block(Protocol):
  """A decoder layer of somebody else, as a pure function of its parameters."""

  @property
  def attentions(self) -> tuple[Attention, ...]:
    """Its attentions, in the order in which it calls them."""
    ...

  @property
  def looks_up_positions(self) -> bool:
    """Whether it indexes a table with positions, so that they must not be negative."""
    ...

  def __call__(
    self, params: Any, tokens: Array, positions: Array, cores: Sequence[Core]
  ) -> Float[Array, "B t D"]:
    """The layer's outputs, with `cores[i]` in the place of its attention i."""
    ...

  def project(
    self, params: Any, tokens: Array, positions: Array
  ) -> list[tuple[KeyHeads, KeyHeads]]:
    """Every attention's keys and values of tokens."""
    ...

  def turn(self, params: Any, keys: Sequence[KeyHeads], positions: Array) -> list[KeyHeads]:
    """Every attention's keys as if their tokens stood `positions` further on: RoPE alone."""
    ...


class StockLayer(NamedTuple):
  """Parameters of one layer: the block's own, and what memory adds.  A counts its attentions."""

  block: Any
  offset: Float[Array, "*Y A N"] | None  # added to the logits of mixed short-term tokens
  gate: Float[Array, "*Y A N H"] | None
  summary_mixer: TokenMixer | None
  short_mixer: TokenMixer | None
  long_mixer: TokenMixer | None


@final
@dataclasses.dataclass(frozen=True)
class StockReader:
  """Reads with a stock block.  Keys and values of all its attentions are stored side by side, in
  the order in which the block calls them.
  """

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any
  block: Block
  mixes_inputs: ClassVar[bool] = True

  def remembered(
    self, params: StockLayer, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Reader.remembered`: behind the sinks, or all where the window begins."""
    if where == "pairs":
      return self._cached(params, tokens)
    if not tokens.shape[1]:
      heads = (self.config.stored_heads, self.config.head_dim)
      empty = jnp.zeros((tokens.shape[0], 0, *heads), self.dtype)
      return empty, empty
    if where == "short":
      places = self.spec.sink_tokens + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    else:
      places = jnp.full(tokens.shape[1], self.spec.short_tokens, jnp.int32)
    positions = jnp.broadcast_to(self._positions(places[None]), tokens.shape[:2])
    keys, values = zip(*self.block.project(params.block, tokens, positions), strict=True)
    return jnp.concatenate(keys, axis=2), jnp.concatenate(values, axis=2)

  def _cached(self, params: StockLayer, pairs: Float[Array, "B s _"]) -> tuple[Heads, Heads]:
    """Sinks and cache at their places in the row.

    A place of the cache says how many windows ago its token was read, and keys turn by so many
    windows.  Sinks are turned from the first window to the row's beginning.
    """
    config, spec = self.config, self.spec
    key, value = split_pairs(pairs.astype(wide_dtype(pairs)), config.stored_heads)
    from_end = spec.cache_tokens - jnp.arange(spec.cache_tokens, dtype=jnp.int32)
    ago = (from_end + config.window_length - 1) // config.window_length
    sinks = jnp.full(spec.sink_tokens, -spec.short_tokens, jnp.int32)
    by = jnp.broadcast_to(jnp.concatenate([sinks, -ago * config.window_length]), pairs.shape[:2])
    keys = self.block.turn(params.block, jnp.split(key, config.num_attentions, axis=2), by)
    return jnp.concatenate(keys, axis=2).astype(self.dtype), value.astype(self.dtype)

  def read(
    self,
    params: StockLayer,
    tokens: Float[Array, "B t D"],
    row: Row,
    long: KeyValues | None,
    rng: Rng | None,
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """See `Reader.read`.  Stock blocks have no dropout here, so `rng` is not used."""
    places = row.places
    if places is None:
      end = self.spec.short_tokens + self.config.mixer_inputs
      places = jnp.arange(end - tokens.shape[1], end, dtype=jnp.int32)[None]
    pairs: list[tuple[KeyHeads, KeyHeads]] = []

    def core(index: int) -> Core:
      heads = slice(index * self.config.num_kv_heads, (index + 1) * self.config.num_kv_heads)

      def attend(query: Heads, key: KeyHeads, value: KeyHeads) -> Heads:
        pairs.append((key, value))
        queue = None if long is None else of_heads(long, heads)
        return self._attend(params, index, query, places, row.join(key, value, heads), queue)

      return attend

    cores = [core(index) for index in range(len(self.block.attentions))]
    tokens = self.block(params.block, tokens, self._positions(places), cores)
    keys, values = (jnp.concatenate(leaves, axis=2) for leaves in zip(*pairs, strict=True))
    return tokens, KeyValues(keys, values, row.valid)

  def _positions(self, places: Int[Array, "B t"]) -> Int[Array, "B t"]:
    """Positions as the block's RoPE sees them: 0 where the window begins, if it can count down."""
    shift = 0 if self.block.looks_up_positions else self.spec.short_tokens
    return places - shift

  def _attend(
    self,
    params: StockLayer,
    index: int,
    query: Heads,
    places: Int[Array, "#B t"],
    row: KeyValues,
    long: KeyValues | None,
  ) -> Heads:
    """Attention `index` of the block over the row, and through the gate over the queue."""
    attention = self.block.attentions[index]
    offset = None if params.offset is None else params.offset[index]
    bias = None
    if offset is not None:
      place, first = jnp.arange(row.key.shape[1], dtype=jnp.int32), self.spec.sink_tokens
      mixed = (place >= first) & (place < first + self.spec.mixed_tokens)
      bias = jnp.where(mixed, offset[:, None].astype(jnp.float32), 0.0)
    visible = row.visible[:, None] & self._seen(attention, places, row.key.shape[1])
    own = grouped_attention(query, row, visible, attention.soft_cap, bias)
    if long is None or params.gate is None:
      return own
    if are_many(query.shape[1], long.key.shape[1]):
      ones, how = jnp.ones(query.shape[2], wide_dtype(query)), How(attention.soft_cap)
      cross = attend_to_many(query, *long[:2], ones, long.visible, how)
    else:
      cross = grouped_attention(query, long, long.visible[:, None], attention.soft_cap, None)
    reads = long.visible.any(-1)[:, None] & self._sees_memory(places)
    return mix_in(params.gate[index], own, cross, reads)

  def _seen(
    self, attention: Attention, places: Int[Array, "B t"], slots: int
  ) -> Bool[Array, "B t s"]:
    """Which places of the row a query sees: earlier ones and its own.

    A sliding window holds between tokens of the window and of the cache only; sinks, mixed and
    summary tokens see and are seen.
    """
    key_place, place = jnp.arange(slots, dtype=jnp.int32), places[..., None]
    first, end = self.spec.short_tokens, self.spec.short_tokens + self.config.window_length
    seen = (key_place <= place) & ((key_place >= first) | self._sees_memory(place))
    if attention.sliding_window is not None:
      near = place - key_place < attention.sliding_window
      seen &= near | (key_place < first - self.spec.cache_tokens) | (place >= end)
    return seen

  def _sees_memory(self, places: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether a token may see memory: without sinks all but the window's first."""
    return (places != self.spec.short_tokens) | (self.spec.sink_tokens > 0)


def grouped_attention(
  query: Heads,
  slots: KeyValues,
  visible: Bool[Array, "#B #t s"],
  soft_cap: float | None,
  bias: Float[Array, "N s"] | None,
) -> Heads:
  """softmax(q.k + bias) v with N query heads in as many groups as there are heads of keys.

  Queries come scaled.  Logits and softmax are at least float32; a query that sees nothing gets
  some mean of the values.
  """
  batch, queries, num_heads, head_dim = query.shape
  groups = slots.key.shape[2]
  wide = wide_dtype(query)
  grouped = query.reshape(batch, queries, groups, num_heads // groups, head_dim)
  logits = jnp.einsum("BtGRH,BsGH->BGRts", grouped, slots.key, preferred_element_type=wide)
  if soft_cap:
    logits = soft_cap * jnp.tanh(logits / soft_cap)
  if bias is not None:
    logits += bias.reshape(groups, num_heads // groups, 1, -1).astype(wide)
  logits = jnp.where(visible[:, None, None], logits, MASKED_LOGIT)
  weights = jax.nn.softmax(logits, axis=-1).astype(slots.value.dtype)
  out = jnp.einsum("BGRts,BsGH->BtGRH", weights, slots.value)
  return out.reshape(query.shape)


def mix_in(
  gate: Float[Array, "N H"], own: Heads, cross: Heads, reads: Bool[Array, "#B t"]
) -> Heads:
  """Computes own + (1 - sigmoid(gate)) * (cross - own); `own` itself for tokens that read no queue.

  The paper's gate, but one that cannot harm: a convex mix with nothing would shrink `own`.
  """
  share = jax.nn.sigmoid(-gate.astype(jnp.float32)).astype(own.dtype)
  return own + jnp.where(reads[..., None, None], share * (cross - own), 0)
