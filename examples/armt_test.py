"""The example: its mathematics, and everything that must hold for a system."""

import armt
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance import segments, suite, verbs
from melodi_plugin.conformance.stacks import Subject, small_config
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.reference import melodi as reference
from melodi_plugin.testing.cases import broad_but


def draw(seed, *shape):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def empty(float64):
  return armt.Association(jnp.zeros((1, 5, 24)), jnp.zeros((1, 24)))


def write(memory, key, value, strength=1.0):
  return armt.write(memory, key, value, jnp.full((1, 1), strength))


def keys_of(count):
  """As many keys that have little in common (1, count, 24)."""
  return armt.dpfp(draw(count, 1, count, 4))


def test_what_was_written_is_found_and_nothing_is_found_in_an_empty_memory(empty):
  key, value = keys_of(1), draw(1, 1, 1, 5)
  assert not armt.find(empty, key).any()
  found = armt.find(write(empty, key, value), key)
  np.testing.assert_allclose(found, value, rtol=1e-12)


def test_writing_a_key_twice_replaces_its_value_and_counts_it_once(empty):
  key, (first, second) = keys_of(1), draw(2, 2, 1, 1, 5)
  once = write(empty, key, first)
  twice = write(once, key, second)
  np.testing.assert_allclose(armt.find(twice, key), second, rtol=1e-12)
  np.testing.assert_allclose(twice.mass, once.mass, rtol=1e-12)
  half = write(once, key, second, 0.5)
  np.testing.assert_allclose(armt.find(half, key), (first + second) / 2, rtol=1e-12)


def test_a_key_that_has_nothing_in_common_with_another_leaves_it_alone(empty):
  nothing = jnp.zeros((1, 1, 24))
  one, other = nothing.at[0, 0, 3].set(2.0), nothing.at[0, 0, 7].set(1.0)
  values = draw(3, 2, 1, 1, 5)
  memory = write(write(empty, one, values[0]), other, values[1])
  np.testing.assert_allclose(armt.find(memory, one), values[0], rtol=1e-12)
  np.testing.assert_allclose(armt.find(memory, other), values[1], rtol=1e-12)


def test_features_are_products_of_rectified_neighbours():
  x = jnp.array([1.0, -3.0])  # rectified, with its negative: 1 0 0 3
  assert armt.dpfp(x).tolist() == [*[3, 0, 0, 0], *[0, 0, 0, 0], *[0, 0, 0, 3]]


def read_window(layer, spec, config, x, u, memory, held):
  """One window of one row, its summary tokens written one by one."""
  matrix, mass = memory.long
  own = layer.memory

  def found(key):
    if not held:
      return jnp.zeros((key.shape[0], matrix.shape[0]))
    overlap = (key @ mass)[:, None]
    assert (overlap > 1e-6).all()
    return key @ matrix.T / overlap

  x, u = (tokens + found(phi(tokens @ own.query)) for tokens in (x, u))
  nothing = jnp.zeros((0, x.shape[1]))
  x, u, _, _ = reference.read_window(layer.tokens, spec, config, x, u, nothing, None, held)
  new_matrix, new_mass = matrix, mass
  for token in u:
    key, value = phi(token @ own.key), token @ own.value
    change = jax.nn.sigmoid(token @ own.strength) * (value - found(key[None])[0])
    new_matrix += jnp.outer(change, key)
    new_mass += max(0.0, 1 - mass @ key / (key @ key)) * key if key.any() else 0
  return x, u, LayerMemory(memory.short, armt.Association(new_matrix, new_mass))


def phi(x):
  """DPFP-3, by the numbers of the places that are multiplied."""
  x = jnp.concatenate([jax.nn.relu(x), jax.nn.relu(-x)], axis=-1)
  places = np.arange(x.shape[-1])
  return jnp.concatenate([x * x[..., places - shift] for shift in (1, 2, 3)], axis=-1)


CONFIG = small_config("armt", melodi_summary_tokens=3, melodi_short_term_tokens=0, armt_key_width=8)
SUBJECT = Subject(CONFIG, read_window)


# The walk that all others are compared with, and the slow one; the suite's other checks are broad.
QUICK = (segments.equals_naive, verbs.verbs_equal_schedule)


@pytest.mark.parametrize(
  "check", broad_but(QUICK, suite.checks(SUBJECT)), ids=lambda check: check.__name__
)
def test_conforms(check):
  check(SUBJECT)
