"""The token mixer: a linear map along the token axis, the same for every channel.

A mixer reads the W context tokens and the U summary tokens of a window.  It is linear, so the
context's share of its output can be summed as tokens arrive (`share`) and the summary tokens added
when the window closes; the two calls differ only in the rows of the kernel that they read.
"""

from typing import NamedTuple

import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.core.attention import rms_norm


class TokenMixer(NamedTuple):
  """Parameters of one mixer (SEMANTICS 1.3, step 5); `o` counts its output tokens."""

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
  kernel = kernel.astype(tokens.dtype)
  if kernel.ndim == 2:
    return jnp.einsum("to,BtD->BoD", kernel, tokens)
  return jnp.einsum("Bto,BtD->BoD", kernel, tokens)


def finish(
  mixer: TokenMixer,
  context_share: Float[Array, "B o D"],
  summary: Float[Array, "B U D"],
  residual: bool,
) -> Float[Array, "B o D"]:
  """Adds the summary tokens' share, the bias and, if asked, the residual from the summary."""
  window_length = mixer.kernel.shape[0] - summary.shape[1]
  mixed = context_share + share(mixer.kernel[window_length:], summary, mixer.summary_norm)
  mixed += mixer.bias.astype(mixed.dtype)[None, :, None]
  return mixed + summary if residual else mixed
