"""Dropout and rematerialisation of cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import document_rows, jit
from melodi_plugin.core.schedules.walk import Walk
from melodi_plugin.testing.segments import SEGMENT, W, draw, inputs, reader, small_config
from melodi_plugin.testing.tiny import assert_close

pytestmark = pytest.mark.usefixtures("float64")

# Keys of this kind compile fast.
KEY, OTHER = (functools.partial(jax.random.key, seed, impl="unsafe_rbg") for seed in (1, 2))


@functools.cache
def dropped(schedule="layers", rate=0.2):
  """A compiled reader with a dropout key as first argument, and its inputs."""
  config = small_config(dropout_rate=rate)
  read = reader(config, schedule=schedule)
  return jit(lambda key, *arguments: read(*arguments, rng=key)), inputs(config)


def read_dropped(key, **options):
  read, arguments = dropped(**options)
  return read(key, *arguments)


def test_dropout_changes_every_output_and_is_given_by_its_key():
  y, memory = read_dropped(KEY())
  assert_close(read_dropped(KEY()), (y, memory), 0.0, 0.0)
  for key in (None, OTHER()):
    differs, remembers = read_dropped(key)
    text = np.asarray(y).any(-1)
    assert (differs != y).any(-1)[text].all()
    assert (remembers.short != memory.short).any((2, 3)).all()
    assert (remembers.long != memory.long).any((2, 3)).all()


def test_schedules_drop_the_same_under_one_key():
  assert_close(read_dropped(KEY(), schedule="windows"), read_dropped(KEY()), 1e-9, 1e-9)


def test_layers_that_read_at_once_cannot_drop():
  with pytest.raises(ValueError, match="would drop the same"):
    read_dropped(KEY(), schedule="diagonal")


def test_dropout_at_rate_zero_equals_no_key():
  assert_close(read_dropped(KEY(), rate=0.0), read_dropped(None), 1e-12, 1e-12)


def test_every_cell_has_a_dropout_key_of_its_own():
  walk = Walk(windows=None, rng=jax.random.key(1), remat=None)
  cells = [(layer, window) for layer in range(4) for window in range(-1, 4)]
  keys = [jax.random.key_data(walk.rng_of(*map(jnp.int32, cell))) for cell in cells]
  assert len(np.unique(np.array(keys), axis=0)) == len(cells)


def test_dropout_differs_between_windows_and_rows():
  """With the same tokens everywhere, only the masks can tell them apart."""
  config = small_config(short_term_tokens=0, long_term_layers=(), dropout_rate=0.2)
  layers, x, summary, memory, *_ = inputs(config)
  positions, ids = document_rows([[6] * 5] * 3, SEGMENT, W)
  x = jnp.tile(x[:1, :W], (3, 5, 1))
  read = jit(lambda key, *arguments: reader(config)(*arguments, rng=key))
  y = np.asarray(read(KEY(), layers, x, summary, memory, positions, ids)[0])
  windows = y.reshape(3 * 5, -1)
  assert len(np.unique(windows, axis=0)) == 15


@pytest.mark.broad  # without dropout through MaxText in scan_test
def test_checkpointed_cells_have_the_same_gradients():
  config = small_config(num_layers=1, short_term_layers=(0,), long_term_layers=(), dropout_rate=0.2)
  layers, x, summary, memory, positions, ids = inputs(config)
  wrapped, weights = [], draw(*x.shape, seed=3)

  def checkpoint(function):
    wrapped.append(function)
    return jax.checkpoint(function, policy=jax.checkpoint_policies.nothing_saveable)

  def loss(layers, x, summary, key=KEY, **options):
    read = reader(config, **options)
    y, _ = read(layers, x, summary, memory, positions, ids, rng=key())
    return jnp.sum(y * weights)

  def gradients(**options):
    gradient = jax.grad(functools.partial(loss, **options), argnums=(0, 1, 2))
    return jit(gradient)(layers, x, summary)

  assert_close(gradients(remat=checkpoint), gradients(), 1e-9, 1e-9)
  assert len(wrapped) == 1  # a schedule that ignores `remat` would pass without this line
  for options in ({"schedule": "windows"}, {"schedule": "diagonal", "key": lambda: None}):
    jax.eval_shape(functools.partial(loss, remat=checkpoint, **options), layers, x, summary)
  assert len(wrapped) == 3
