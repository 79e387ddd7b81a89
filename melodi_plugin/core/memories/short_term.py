"""Short-term memory: tokens that stand before the window in its row, rewritten by every window."""

import dataclasses
from typing import Any, NamedTuple, final

import jax.numpy as jnp

from melodi_plugin.config.model import LayerSpec, MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads, Rng, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader
from melodi_plugin.core.memories.contents import Mixture, Verbatim
from melodi_plugin.core.memory import Stored


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

  def next(self, kept: Float[Array, "B S D"], tokens: KeyValues) -> Float[Array, "B S D"]:
    """See `ShortMemory.next`."""
    return kept

  def kept(self, state: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    """See `ShortMemory.kept`."""
    return state


class CachedWindow(NamedTuple):
  """The previous window: what is stored of it, and its keys and values with this step's weights."""

  entries: Float[Array, "B S _"]
  key: Heads
  value: Heads


@final
@dataclasses.dataclass(frozen=True)
class Cache:
  """The previous window as it is: S = W, or 0 in a layer that needs none."""

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
    return Verbatim(self.config, self.spec.short_tokens, self.dtype)

  def begin(
    self, reader: Reader, params: Any, kept: Float[Array, "B S _"], rng: Rng | None
  ) -> CachedWindow:
    """See `ShortMemory.begin`."""
    return CachedWindow(kept, *self._contents.old_heads(reader, params, kept, "short", rng))

  def heads(
    self, reader: Reader, params: Any, state: CachedWindow, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `ShortMemory.heads`."""
    return state.key, state.value

  def close(self, params: Any, u: Summary, window: OpenWindow) -> Float[Array, "B S _"]:
    """See `ShortMemory.close`."""
    return self._contents.close(params, u, window)

  def next(self, kept: Float[Array, "B S _"], tokens: KeyValues) -> CachedWindow:
    """See `ShortMemory.next`."""
    size = self.spec.short_tokens
    return CachedWindow(kept, tokens.key[:, :size], tokens.value[:, :size])

  def kept(self, state: CachedWindow) -> Float[Array, "B S _"]:
    """See `ShortMemory.kept`."""
    return state.entries
