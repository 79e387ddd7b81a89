"""What of a window goes into memory: a mixture of its tokens, or the tokens as they are."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads, Rng, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader
from melodi_plugin.core.token_mixer import TokenMixer, finish, share

Contained = Float[Array, "B o _"]  # of o tokens in memory


@runtime_checkable
class Contents(Protocol):
  """How o tokens in memory are made of a window, and what are their keys and values."""

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    ...

  def close(self, params: Any, u: Summary, window: OpenWindow) -> Contained:
    """The tokens."""
    ...

  def to_store(self, reader: Reader, params: Any, new: Contained) -> Float[Array, "B o _"]:
    """What is stored of them."""
    ...

  def new_heads(
    self,
    reader: Reader,
    params: Any,
    new: Float[Array, "B o _"],
    tokens: KeyValues,
    rng: Rng | None,
  ) -> tuple[Heads, Heads]:
    """Keys and values of what is stored of a window of these tokens."""
    ...

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s _"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """Keys and values of what was stored."""
    ...


def pairs_of(tokens: KeyValues) -> Float[Array, "B t _"]:
  """Keys and values of a window, head by head; zeros where there is no token."""
  pairs = jnp.concatenate([tokens.key, tokens.value], axis=-1)
  pairs = pairs.reshape(*tokens.visible.shape, pairs.shape[2] * pairs.shape[3])
  return jnp.where(tokens.visible[..., None], pairs, 0)


def split_pairs(pairs: Float[Array, "B s _"], heads: int) -> tuple[Heads, Heads]:
  """The keys and the values that `pairs_of` has put together."""
  width = pairs.shape[2] // heads
  key, value = jnp.split(pairs.reshape(*pairs.shape[:2], heads, width), 2, axis=-1)
  return key, value


@dataclasses.dataclass(frozen=True)
class Mixture:
  """What a token mixer makes of a window: MELODI."""

  config: MelodiConfig
  mixer: str  # its name in the parameters of a layer
  tokens: int  # o; 0 if the layer has no such mixer
  residual: bool
  dtype: Any

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    return "mixed" if self.tokens else ""

  def close(self, params: Any, u: Summary, window: OpenWindow) -> Contained:
    """See `Contents.close`."""
    if not self.tokens:
      return jnp.zeros_like(u[:, :0])
    mixer: TokenMixer = getattr(params, self.mixer)
    context = jnp.where(window.tokens.visible[..., None], window.mixed, 0)
    own = share(mixer.kernel[: self.config.window_length], context, mixer.context_norm)
    return finish(mixer, own, u, self.residual)

  def to_store(self, reader: Reader, params: Any, new: Contained) -> Contained:
    """See `Contents.to_store`."""
    return new

  def new_heads(
    self, reader: Reader, params: Any, new: Contained, tokens: KeyValues, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.new_heads`."""
    return self.old_heads(reader, params, new, "long", rng)

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.old_heads`."""
    return reader.remembered(params, kept.astype(self.dtype), where, rng)


@dataclasses.dataclass(frozen=True)
class ProjectedMixture(Mixture):
  """The same, stored as keys and values: fewer numbers where a block has few heads of them.

  They are those that the tokens would have as long as the weights stay, and go stale as these move.
  """

  def to_store(self, reader: Reader, params: Any, new: Contained) -> Float[Array, "B o _"]:
    """See `Contents.to_store`."""
    heads = reader.remembered(params, new.astype(self.dtype), "long", None)
    return pairs_of(KeyValues(*heads, jnp.ones(new.shape[:2], bool)))

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s _"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.old_heads`."""
    return split_pairs(kept.astype(self.dtype), self.config.stored_heads)


@dataclasses.dataclass(frozen=True)
class Verbatim:
  """The tokens below the layer, or their keys and values head by head (`stores_pairs`)."""

  config: MelodiConfig
  tokens: int  # o: W, or 0
  dtype: Any

  @property
  def keeps(self) -> str:
    """See `ShortMemory.keeps`."""
    return "below" if self.tokens and not self.config.stores_pairs else ""

  def close(self, params: Any, u: Summary, window: OpenWindow) -> Contained:
    """See `Contents.close`: each token at its place, zeros where there is none."""
    visible = window.tokens.visible
    if not self.tokens:
      return jnp.zeros((visible.shape[0], 0, self.config.cache_width), self.dtype)
    if self.config.stores_pairs:
      return pairs_of(window.tokens)
    return jnp.where(visible[..., None], window.below, 0)

  def to_store(self, reader: Reader, params: Any, new: Contained) -> Contained:
    """See `Contents.to_store`."""
    return new

  def new_heads(
    self, reader: Reader, params: Any, new: Contained, tokens: KeyValues, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.new_heads`: those that they had in the window, so that none is made twice."""
    return tokens.key[:, : self.tokens], tokens.value[:, : self.tokens]

  def old_heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B s _"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Contents.old_heads`."""
    if not self.config.stores_pairs:
      return reader.remembered(params, kept.astype(self.dtype), where, rng)
    return split_pairs(kept.astype(self.dtype), self.config.num_heads)
