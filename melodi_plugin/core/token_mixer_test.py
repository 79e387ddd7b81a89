"""The token mixer is linear along tokens: any pieces of a window sum to the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.core.token_mixer import TokenMixer, finish, share

B, W, U, D, OUT = 2, 6, 3, 4, 5

pytestmark = pytest.mark.usefixtures("float64")


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float64)


def random_mixer(normed=True, outputs=OUT):
  norms = (draw(D, seed=2), draw(D, seed=3)) if normed else (None, None)
  return TokenMixer(draw(W + U, outputs), draw(outputs, seed=1), *norms)


def norm(x, gain):
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * gain


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_mixer_equals_its_definition(normed, residual):
  mixer = random_mixer(normed, outputs=U)
  x, u = draw(B, W, D, seed=4), draw(B, U, D, seed=5)
  mixed = finish(mixer, share(mixer.kernel[:W], x, mixer.context_norm), u, residual)

  inputs = [norm(x, mixer.context_norm), norm(u, mixer.summary_norm)] if normed else [x, u]
  kernel, bias = np.asarray(mixer.kernel), np.asarray(mixer.bias)
  expected = np.einsum("io,bic->boc", kernel, np.concatenate(inputs, 1)) + bias[:, None]
  np.testing.assert_allclose(mixed, expected + residual * np.asarray(u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [[1] * W, [3, 3], [2, 4], [5, 1], [W]])
@pytest.mark.parametrize("normed", [True, False])
def test_shares_of_pieces_sum_to_the_share_of_the_window(sizes, normed):
  mixer, x = random_mixer(normed), draw(B, W, D, seed=4)
  stops = np.cumsum(sizes)
  pieces = [
    share(mixer.kernel[stop - size : stop], x[:, stop - size : stop], mixer.context_norm)
    for size, stop in zip(sizes, stops, strict=True)
  ]
  whole = share(mixer.kernel[:W], x, mixer.context_norm)
  np.testing.assert_allclose(sum(pieces), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normed", [True, False])
def test_padding_of_zeros_has_no_share(normed):
  mixer, x = random_mixer(normed), draw(B, W, D, seed=4)
  padded = x.at[:, 4:].set(0)
  np.testing.assert_allclose(
    share(mixer.kernel[:W], padded, mixer.context_norm),
    share(mixer.kernel[:4], x[:, :4], mixer.context_norm),
    rtol=1e-12,
    atol=1e-12,
  )


def test_without_summary_tokens_the_context_is_all():
  mixer = TokenMixer(draw(W, OUT), draw(OUT, seed=1))
  x = draw(B, W, D, seed=4)
  mixed = finish(mixer, share(mixer.kernel[:W], x, None), jnp.zeros((B, 0, D)), residual=False)
  expected = np.einsum("io,bic->boc", mixer.kernel, x) + np.asarray(mixer.bias)[:, None]
  np.testing.assert_allclose(mixed, expected, rtol=1e-12, atol=1e-12)


def test_sums_are_float32_and_mixed_tokens_have_the_dtype_of_the_activations():
  mixer = TokenMixer(*(leaf.astype(jnp.float32) for leaf in random_mixer()))
  x, u = jnp.ones((B, W, D), jnp.bfloat16), jnp.ones((B, U, D), jnp.bfloat16)
  own = share(mixer.kernel[:W], x, mixer.context_norm)
  assert own.dtype == jnp.float32
  assert finish(mixer, own, u, residual=False).dtype == jnp.bfloat16
