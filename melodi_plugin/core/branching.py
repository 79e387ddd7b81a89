"""Summary branching: the three token mixers with which a layer closes a window.

SEMANTICS 1.3, step 5.  The same u goes, through a mixer each, to the next layer, to the next window
and to the long-term queue.
"""

from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from melodi_plugin.config.model import LayerSpec, MelodiConfig
from melodi_plugin.core import token_mixer
from melodi_plugin.core.array_typing import Array, Bool, Float, Int, Summary
from melodi_plugin.core.memory import Update
from melodi_plugin.core.token_mixer import TokenMixer


@runtime_checkable
class Mixers(Protocol):
  """The parameters of a layer, as far as they concern this module; absent mixers are None."""

  @property
  def summary_mixer(self) -> TokenMixer | None:
    """For the next layer's summary tokens."""
    ...

  @property
  def short_mixer(self) -> TokenMixer | None:
    """For the next window's short-term memory."""
    ...

  @property
  def long_mixer(self) -> TokenMixer | None:
    """For the long-term queue."""
    ...


def context_shares(
  mixers: Mixers,
  config: MelodiConfig,
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
    kernel = mixer.kernel[: config.window_length]
    if place is not None:
      kernel = kernel[place[:, None] + jnp.arange(x.shape[1], dtype=jnp.int32)]
    return token_mixer.share(kernel, x, mixer.context_norm)

  return shared(mixers.summary_mixer), shared(mixers.short_mixer), shared(mixers.long_mixer)


def mix(
  mixers: Mixers, spec: LayerSpec, u: Summary, shares: tuple[Array, Array, Array]
) -> tuple[Summary, Update]:
  """Summary branching: from the same u, the next layer's u and the next window's memory."""
  summary_share, short_share, long_share = shares
  above, short, increment = u, u[:, : spec.short_tokens], long_share
  if mixers.summary_mixer is not None:
    above = token_mixer.finish(mixers.summary_mixer, summary_share, u, residual=True)
  if mixers.short_mixer is not None:
    short = token_mixer.finish(mixers.short_mixer, short_share, u, spec.residual_short)
  if mixers.long_mixer is not None:
    increment = token_mixer.finish(mixers.long_mixer, long_share, u, residual=False)
  return above, Update(short, increment)
