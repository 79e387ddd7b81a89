"""Short-term memory: tokens that stand before the window in its row, rewritten by every window."""

import dataclasses
from typing import Any, NamedTuple, final

import jax.numpy as jnp

from melodi_plugin.config.model import LayerSpec, MelodiConfig
from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Int, Rng, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader
from melodi_plugin.core.memories.contents import Mixture, Verbatim
from melodi_plugin.core.memory import Stored
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
    return Stored((self.spec.short_tokens, self.config.short_width), (None, "activation_embed"))

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    return self._contents.keeps

  @property
  def _contents(self) -> Mixture:
    tokens = self.spec.short_tokens if self.spec.mixes_short else 0
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
      return u[:, : self.spec.short_tokens]
    return self._contents.close(params, u, window)

  def filled(self, held: Int[Array, "B"]) -> Bool[Array, "B S"]:
    """See `ShortMemory.filled`: one window fills them all."""
    return jnp.broadcast_to((held > 0)[:, None], (*held.shape, self.spec.short_tokens))

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
  the cache, so that a token is seen once.
  """

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32

  @property
  def stored(self) -> Stored:
    """See `ShortMemory.stored`."""
    return Stored((self.spec.short_tokens, self.config.short_width), (None, "activation_embed"))

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
    read = held[:, None] * self.config.window_length
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
    sinks, size = self.spec.sink_tokens, self.spec.short_tokens

    def push(old: Array, own: Array) -> Array:
      own = own.astype(old.dtype)
      first = select_rows(held == 0, own[:, :sinks], old[:, :sinks])
      cached = jnp.concatenate([old[:, sinks:], own], axis=1)
      return jnp.concatenate([first, cached[:, cached.shape[1] - (size - sinks) :]], axis=1)

    pairs = (kept, new), (row.key, tokens.key), (row.value, tokens.value)
    return CachedTokens(*(push(*pair) for pair in pairs))

  def kept(self, state: CachedTokens) -> Float[Array, "B S _"]:
    """See `ShortMemory.kept`."""
    return state.entries
