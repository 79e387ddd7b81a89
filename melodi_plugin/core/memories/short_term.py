"""Short-term memory: tokens that stand before the window in its row, rewritten by every window."""

import dataclasses
from typing import Any, NamedTuple, final

import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Int, Rng, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader
from melodi_plugin.core.memories.contents import Mixture, Verbatim, pairs_of
from melodi_plugin.core.memory import Stored, tokens_left
from melodi_plugin.core.segments import select_rows


@final
@dataclasses.dataclass(frozen=True)
class Mixed:
  """MELODI's z: S tokens that a mixer makes of a window, or its summary tokens (no branching)."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32

  @property
  def stored(self) -> Stored:
    """See `ShortMemory.stored`."""
    return Stored((self.spec.mixed_tokens, self.config.emb_dim), (None, "activation_embed"))

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    return self._contents.keeps

  @property
  def _contents(self) -> Mixture:
    tokens = self.spec.mixed_tokens if self.spec.mixes_short else 0
    return Mixture(self.config, "short_mixer", tokens, self.spec.residual_short, self.dtype)

  def begin(
    self, reader: Reader, params: Any, kept: Float[Array, "B S D"], rng: Rng | None
  ) -> Float[Array, "B S D"]:
    """See `ShortMemory.begin`."""
    return kept

  def heads(
    self, reader: Reader, params: Any, state: Float[Array, "B S D"], rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `ShortMemory.heads`."""
    return self._contents.old_heads(reader, params, state, "short", rng)

  def close(self, params: Any, u: Summary, window: OpenWindow) -> Float[Array, "B S D"]:
    """See `ShortMemory.close`."""
    if not self.spec.mixes_short:
      return u[:, : self.spec.mixed_tokens]
    return self._contents.close(params, u, window)

  def filled(self, held: Int[Array, "B"]) -> Bool[Array, "B S"]:
    """See `ShortMemory.filled`: one window fills them all."""
    return jnp.broadcast_to((held > 0)[:, None], (*held.shape, self.spec.mixed_tokens))

  def next(
    self,
    kept: Float[Array, "B S D"],
    new: Float[Array, "B S D"],
    held: Int[Array, "B"],
    row: KeyValues,
    tokens: KeyValues,
  ) -> Float[Array, "B S D"]:
    """See `ShortMemory.next`."""
    return new.astype(kept.dtype)

  def kept(self, state: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """See `ShortMemory.kept`."""
    return state


class CachedTokens(NamedTuple):
  """Earlier tokens: what is stored of them, and their keys and values with this step's weights."""

  entries: Float[Array, "B S _"]
  key: Heads
  value: Heads


@final
@dataclasses.dataclass(frozen=True)
class Cache:
  """The last C tokens before the window as they are, behind the first ones of the document (sinks).

  S counts both; it is 0 in a layer that needs none.  A sink that the cache holds, too, is hidden in
  the cache, so that a token is seen once: a token of the window does not reach all of the cache,
  and must see sinks from everywhere.
  """

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32

  @property
  def stored(self) -> Stored:
    """See `ShortMemory.stored`."""
    return Stored((self.spec.short_tokens, self.config.cache_width), (None, "activation_embed"))

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    return self._contents.keeps

  @property
  def _contents(self) -> Verbatim:
    tokens = self.config.window_length if self.spec.short_tokens else 0
    return Verbatim(self.config, tokens, self.dtype)

  def begin(
    self, reader: Reader, params: Any, kept: Float[Array, "B S _"], rng: Rng | None
  ) -> CachedTokens:
    """See `ShortMemory.begin`."""
    return CachedTokens(kept, *self._contents.old_heads(reader, params, kept, "short", rng))

  def heads(
    self, reader: Reader, params: Any, state: CachedTokens, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `ShortMemory.heads`."""
    return state.key, state.value

  def close(self, params: Any, u: Summary, window: OpenWindow) -> Float[Array, "B W _"]:
    """See `ShortMemory.close`: its tokens, or none."""
    return self._contents.close(params, u, window)

  def filled(self, held: Int[Array, "B"]) -> Bool[Array, "B S"]:
    """See `ShortMemory.filled`: the sinks, and the newest end of the cache but for sinks."""
    sinks, size = self.spec.sink_tokens, self.spec.short_tokens
    from_end = size - jnp.arange(size, dtype=jnp.int32)
    read = tokens_left(held, self.config.window_length, size)[:, None]
    in_cache = from_end <= read - sinks
    return jnp.where(from_end > size - sinks, read > 0, in_cache)

  def next(
    self,
    kept: Float[Array, "B S _"],
    new: Float[Array, "B W _"],
    held: Int[Array, "B"],
    row: KeyValues,
    tokens: KeyValues,
  ) -> CachedTokens:
    """See `ShortMemory.next`."""
    pairs = (kept, new), (row.key, tokens.key), (row.value, tokens.value)
    return CachedTokens(*(_push(*pair, held, self.spec.sink_tokens) for pair in pairs))

  def kept(self, state: CachedTokens) -> Float[Array, "B S _"]:
    """See `ShortMemory.kept`."""
    return state.entries


class MixedAndCached(NamedTuple):
  """What is stored where mixed tokens stand beside sinks and a cache: arrays, or their `Stored`."""

  mixed: Any  # (B, S, D)
  cached: Any  # (B, A + C, _): keys and values of sinks and of the cache, as their windows had them


@final
@dataclasses.dataclass(frozen=True)
class MixedBesideCache:
  """Around a stock block: A sinks, S mixed tokens, and the last C tokens before the window.

  Each of the three may be none.  Sinks and cache are kept as keys and values, which take fewer
  numbers than tokens where queries share heads.  They are those that the block has made, so they
  cost nothing again, and go stale while the block itself is trained, as in the Memorizing
  Transformer.  A key stands turned to its place in its own window (RoPE); the reader turns it on
  to its place in the row, so positions stay small however long a document is (StreamingLLM, Xiao
  et al., ICLR 2024).

  A sink is hidden as long as the cache holds its token, whose place there is the true one.  So a
  document is read as the block alone would read it until it is longer than the cache; without
  sinks but for the first token of a window, which then sees no memory.
  """

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32

  @property
  def stored(self) -> MixedAndCached:
    """See `ShortMemory.stored`."""
    shape = (self.spec.verbatim_tokens, self.config.cache_width)
    return MixedAndCached(self._mixed.stored, Stored(shape, (None, "activation_embed")))

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`: keys and values of a window are there anyway."""
    return self._mixed.keeps

  @property
  def _mixed(self) -> Mixed:
    return Mixed(self.config, self.spec, self.dtype)

  def begin(
    self, reader: Reader, params: Any, kept: MixedAndCached, rng: Rng | None
  ) -> MixedAndCached:
    """See `ShortMemory.begin`."""
    return kept

  def heads(
    self, reader: Reader, params: Any, state: MixedAndCached, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `ShortMemory.heads`."""
    sinks = self.spec.sink_tokens
    mixed = self._mixed.heads(reader, params, state.mixed, rng)
    cached = reader.remembered(params, state.cached, "pairs", rng)
    key, value = (
      jnp.concatenate([own[:, :sinks], between, own[:, sinks:]], axis=1)
      for own, between in zip(cached, mixed, strict=True)
    )
    return key, value

  def close(self, params: Any, u: Summary, window: OpenWindow) -> MixedAndCached:
    """See `ShortMemory.close`."""
    return MixedAndCached(self._mixed.close(params, u, window), pairs_of(window.tokens))

  def filled(self, held: Int[Array, "B"]) -> Bool[Array, "B S"]:
    """See `ShortMemory.filled`."""
    cache, sinks = self.spec.cache_tokens, self.spec.sink_tokens
    read = tokens_left(held, self.config.window_length, cache + sinks)[:, None]
    behind = read - jnp.arange(sinks, dtype=jnp.int32)  # of a sink's own token
    from_end = cache - jnp.arange(cache, dtype=jnp.int32)
    parts = (read > 0) & (behind > cache), self._mixed.filled(held), from_end <= read
    return jnp.concatenate(parts, axis=1)

  def next(
    self,
    kept: MixedAndCached,
    new: MixedAndCached,
    held: Int[Array, "B"],
    row: KeyValues,
    tokens: KeyValues,
  ) -> MixedAndCached:
    """See `ShortMemory.next`."""
    mixed = self._mixed.next(kept.mixed, new.mixed, held, row, tokens)
    return MixedAndCached(mixed, _push(kept.cached, new.cached, held, self.spec.sink_tokens))

  def kept(self, state: MixedAndCached) -> MixedAndCached:
    """See `ShortMemory.kept`."""
    return state


def _push(old: Array, own: Array, held: Int[Array, "B"], sinks: int) -> Array:
  """Sinks and a cache after a window of tokens `own`; a document's first window gives the sinks."""
  own = own.astype(old.dtype)
  first = select_rows(held == 0, own[:, :sinks], old[:, :sinks])
  cached = jnp.concatenate([old[:, sinks:], own], axis=1)
  return jnp.concatenate([first, cached[:, own.shape[1] :]], axis=1)
