"""What of a window goes into memory: a mixture of its tokens, or the tokens as they are."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads, Rng, Summary
from melodi_plugin.core.attention import wide_dtype
from melodi_plugin.core.cell import KeyValues, Reader, ReadTokens, put
from melodi_plugin.core.token_mixer import TokenMixer, context_share, finish

Collected = Float[Array, "B o _"]  # of o tokens in memory


@runtime_checkable
class Contents(Protocol):
  """How o tokens in memory are made of a window, and what are their keys and values."""

  def open(self, batch: int) -> Collected:
    """What is collected of a window of which nothing has been read."""
    ...

  def collect(self, params: Any, collected: Collected, tokens: ReadTokens) -> Collected:
    """The same after some more tokens."""
    ...

  def close(self, params: Any, u: Summary, collected: Collected) -> Collected:
    """The tokens."""
    ...

  def new_heads(
    self, reader: Reader, params: Any, new: Collected, tokens: KeyValues, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of what has just been made of a window of these tokens."""
    ...

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s _"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of what was stored."""
    ...


@dataclasses.dataclass(frozen=True)
class Mixture:
  """What a token mixer makes of a window: MELODI."""

  config: MelodiConfig
  mixer: str  # its name in the parameters of a layer
  tokens: int  # o; 0 if the layer has no such mixer
  residual: bool
  dtype: Any

  def open(self, batch: int) -> Collected:
    """See `Contents.open`: the mixer's sum, at least float32."""
    wide = wide_dtype(jnp.zeros((), self.dtype))
    return jnp.zeros((batch, self.tokens, self.config.emb_dim), wide)

  def collect(self, params: Any, collected: Collected, tokens: ReadTokens) -> Collected:
    """See `Contents.collect`."""
    if not self.tokens:
      return collected
    mixer: TokenMixer = getattr(params, self.mixer)
    return collected + context_share(
      mixer, tokens.mixed, tokens.own.visible, tokens.place, self.config.window_length
    )

  def close(self, params: Any, u: Summary, collected: Collected) -> Collected:
    """See `Contents.close`."""
    if not self.tokens:
      return jnp.zeros_like(u[:, :0])
    return finish(getattr(params, self.mixer), collected, u, self.residual)

  def new_heads(
    self, reader: Reader, params: Any, new: Collected, tokens: KeyValues, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.new_heads`."""
    return self.old_heads(reader, params, new, "long", rng)

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.old_heads`."""
    return reader.remembered(params, kept.astype(self.dtype), where, rng)


@dataclasses.dataclass(frozen=True)
class Verbatim:
  """The tokens below the layer, or their keys and values head by head (`stores_pairs`)."""

  config: MelodiConfig
  tokens: int  # o: W, or 0
  dtype: Any

  def open(self, batch: int) -> Collected:
    """See `Contents.open`."""
    return jnp.zeros((batch, self.tokens, self.config.short_width), self.dtype)

  def collect(self, params: Any, collected: Collected, tokens: ReadTokens) -> Collected:
    """See `Contents.collect`: each token at its place."""
    if not self.tokens:
      return collected
    entries, valid = tokens.below, tokens.own.visible
    if self.config.stores_pairs:
      pairs = jnp.concatenate([tokens.own.key, tokens.own.value], axis=-1)
      entries = pairs.reshape(*pairs.shape[:2], -1)
    if tokens.place is None:
      return jnp.where(valid[..., None], entries, 0)
    return put(collected, entries, tokens.place, valid)

  def close(self, params: Any, u: Summary, collected: Collected) -> Collected:
    """See `Contents.close`."""
    return collected

  def new_heads(
    self, reader: Reader, params: Any, new: Collected, tokens: KeyValues, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.new_heads`: those that they had in the window, so that none is made twice."""
    return tokens.key[:, : self.tokens], tokens.value[:, : self.tokens]

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s _"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.old_heads`."""
    if not self.config.stores_pairs:
      return reader.remembered(params, kept.astype(self.dtype), where, rng)
    heads = (*kept.shape[:2], self.config.num_heads, 2 * self.config.head_dim)
    key, value = jnp.split(kept.astype(self.dtype).reshape(heads), 2, axis=-1)
    return key, value
