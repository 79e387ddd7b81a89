"""Masks and convolutions of rows of documents, against loops."""

import jax.numpy as jnp
import numpy as np

from melodi_plugin.maxtext.decoders.apart import convolve, sees


def test_a_token_sees_what_is_near_and_the_first_tokens_of_documents():
  positions = np.array([[0, 1, 2, 3, 4, 5], [4, 5, 6, 0, 1, 2]])
  seen = np.asarray(sees(jnp.asarray(positions), window=2, sinks=1))
  for row, place, other in np.ndindex(seen.shape):
    assert seen[row, place, other] == (place - other < 2 or positions[row, other] == 0)


def test_a_convolution_ends_at_the_start_of_a_document():
  random = np.random.default_rng(0)
  ids = np.array([[1, 1, 1, 1, 0, 0, 2, 3], [1, 1, 2, 2, 2, 2, 2, 0]])
  inputs, kernel = random.normal(size=(2, 8, 5)), random.normal(size=(4, 1, 5))
  padded = jnp.pad(jnp.asarray(inputs, jnp.float32), ((0, 0), (3, 0), (0, 0)))
  found = convolve(padded, jnp.asarray(kernel, jnp.float32), jnp.asarray(ids))
  expected = np.zeros_like(inputs)
  for row, place in np.ndindex(2, 8):
    for back in range(min(3, place) + 1):
      if ids[row, place - back] == ids[row, place]:
        expected[row, place] += inputs[row, place - back] * kernel[3 - back, 0]
  np.testing.assert_allclose(found, expected, atol=1e-5)
