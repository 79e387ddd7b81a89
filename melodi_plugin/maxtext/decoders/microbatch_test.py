import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.maxtext.decoders.microbatch import part, with_part


@pytest.mark.parametrize("axis", [0, 1])
def test_microbatch_is_every_nth_row(axis):
  array = np.moveaxis(np.arange(3 * 12).reshape(12, 3), 0, axis)
  for number in range(4):
    found = part(jnp.asarray(array), 3, axis, jnp.int32(number))
    np.testing.assert_array_equal(found, np.take(array, range(number, 12, 4), axis))


@pytest.mark.parametrize("axis", [0, 1])
def test_other_rows_stay(axis):
  array = np.moveaxis(np.arange(3 * 12).reshape(12, 3), 0, axis)
  new = np.moveaxis(-np.arange(1, 10).reshape(3, 3), 0, axis)
  expected = array.copy()
  np.moveaxis(expected, axis, 0)[2::4] = np.moveaxis(new, axis, 0)
  found = with_part(jnp.asarray(array), jnp.asarray(new), axis, jnp.int32(2))
  np.testing.assert_array_equal(found, expected)
