"""What every cell of a segment gets besides its streams, whatever the order of the walk."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Int, Rng
from melodi_plugin.core.segments import Windows

Wrap = Callable[[Callable], Callable]  # jax.checkpoint with a policy, or the identity


class Weights(NamedTuple):
  """How the weights of a layer come together where every device has a part of them.

  Attributes:
    whole: the weights of a layer of section i, from i and the device's part.
    remat: wrapped around a layer, so that whole weights are not kept for the backward pass.
  """

  whole: Callable[[int, Any], Any]
  remat: Wrap


class Walk(NamedTuple):
  """The plan of a segment, its random numbers, and what is wrapped around cells and layers."""

  windows: Windows
  rng: Rng | None
  remat: Wrap  # around every cell
  weights: Weights | None = None  # None: every device can use them as they are

  @property
  def indices(self) -> Int[Array, "K"]:
    """The numbers of the windows."""
    return jnp.arange(self.windows.starts.shape[0], dtype=jnp.int32)

  def rng_of(self, layer: Array, window: Array | int) -> Rng | None:
    """Random numbers of its own for every cell; window -1 is `begin`."""
    if self.rng is None:
      return None
    return jax.random.fold_in(jax.random.fold_in(self.rng, layer), window + 1)
