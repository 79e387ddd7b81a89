"""The token mixer: a linear map along the token axis, the same for every channel.

A mixer reads the W context tokens and the U summary tokens of a window (SEMANTICS 1.3, step 5).  It
is linear: the share of the context (`share`) and that of the summary tokens (`finish`) differ only
in the rows of the kernel that they read.  Sums are at least float32: small terms would vanish in
hundreds of additions in bfloat16.
"""

from typing import NamedTuple

import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Float, Summary
from melodi_plugin.core.attention import rms_norm, wide_dtype


class TokenMixer(NamedTuple):
  """Parameters of one mixer; `o` counts its output tokens."""

  kernel: Float[Array, "*Y i o"]  # i = W + U, context first
  bias: Float[Array, "*Y o"]  # one scalar per output token
  context_norm: Float[Array, "*Y D"] | None = None
  summary_norm: Float[Array, "*Y D"] | None = None


def share(
  kernel: Float[Array, "t o"],
  tokens: Float[Array, "B t D"],
  norm: Float[Array, "D"] | None,
) -> Float[Array, "B o D"]:
  """What t tokens contribute to the o output tokens, through their rows of the kernel."""
  if norm is not None:
    tokens = rms_norm(tokens, norm)
  kernel, wide = kernel.astype(tokens.dtype), wide_dtype(tokens)
  return jnp.einsum("to,BtD->BoD", kernel, tokens, preferred_element_type=wide)


def finish(
  mixer: TokenMixer, context: Float[Array, "B o D"], summary: Summary, residual: bool
) -> Float[Array, "B o D"]:
  """Adds the summary tokens' share, the bias and, if asked, the residual from the summary."""
  window_length = mixer.kernel.shape[0] - summary.shape[1]
  own = share(mixer.kernel[window_length:], summary, mixer.summary_norm)
  mixed = context.astype(summary.dtype) + own.astype(summary.dtype)
  mixed += mixer.bias.astype(mixed.dtype)[None, :, None]
  return mixed + summary if residual else mixed
