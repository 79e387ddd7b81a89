"""The token mixer: a linear map along the token axis, the same for every channel.

A mixer reads the W context tokens and the U summary tokens of a window (SEMANTICS 1.3, step 5).  It
is linear, so the context's share of its output can be summed as tokens arrive (`share`) and the
summary tokens added when the window closes (`finish`); the two differ only in the rows of the
kernel that they read.  Sums are at least float32: small terms would vanish in hundreds of
additions in bfloat16.
"""

from typing import NamedTuple

import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Float, Int, Summary
from melodi_plugin.core.attention import rms_norm, wide_dtype


class TokenMixer(NamedTuple):
  """Parameters of one mixer; `o` counts its output tokens."""

  kernel: Float[Array, "*Y i o"]  # i = W + U, context first
  bias: Float[Array, "*Y o"]  # one scalar per output token
  context_norm: Float[Array, "*Y D"] | None = None
  summary_norm: Float[Array, "*Y D"] | None = None


def share(
  kernel: Float[Array, "*B t o"],
  tokens: Float[Array, "B t D"],
  norm: Float[Array, "D"] | None,
) -> Float[Array, "B o D"]:
  """What t tokens contribute to the o output tokens, through their rows of the kernel.

  The kernel may differ per batch row, for rows that are at different places of their windows.
  """
  if norm is not None:
    tokens = rms_norm(tokens, norm)
  letters = "to,BtD->BoD" if kernel.ndim == 2 else "Bto,BtD->BoD"
  wide = wide_dtype(tokens)
  return jnp.einsum(letters, kernel.astype(tokens.dtype), tokens, preferred_element_type=wide)


def context_share(
  mixer: TokenMixer,
  tokens: Float[Array, "B t D"],
  valid: Bool[Array, "B t"],
  place: Int[Array, "B"] | None,
  window_length: int,
) -> Float[Array, "B o D"]:
  """The share of t context tokens, those that are not valid left out.

  `place` tells where in its row's window the first token stands; without it they are the window.
  """
  tokens = jnp.where(valid[..., None], tokens, 0)
  kernel = mixer.kernel[:window_length]
  if place is not None:
    at = place[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    kernel = kernel.at[at].get(mode="clip")  # behind the window's end only what is not valid
  return share(kernel, tokens, mixer.context_norm)


def finish(
  mixer: TokenMixer, context: Float[Array, "B o D"], summary: Summary, residual: bool
) -> Float[Array, "B o D"]:
  """Adds the summary tokens' share, the bias and, if asked, the residual from the summary."""
  window_length = mixer.kernel.shape[0] - summary.shape[1]
  own = share(mixer.kernel[window_length:], summary, mixer.summary_norm)
  mixed = context.astype(summary.dtype) + own.astype(summary.dtype)
  mixed += mixer.bias.astype(mixed.dtype)[None, :, None]
  return mixed + summary if residual else mixed
