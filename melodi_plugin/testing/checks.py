"""What must hold for every system that MELODI is compared with."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.testing.baselines import (
  BATCH,
  SEGMENT,
  batch_of,
  compiled,
  memory_of,
  random_layers,
  read,
  rows_of,
  truth,
)
from melodi_plugin.testing.tiny import assert_close


def assert_equals_naive(
  config: MelodiConfig,
  schedule: str = "layers",
  scan_layers: bool = True,
  layers: list[Any] | None = None,
  gradients: bool = True,
) -> None:
  """Compares two consecutive segments with `naive_baselines`."""
  layers = random_layers(config) if layers is None else layers
  memory, run = memory_of(config), compiled(config, schedule, scan_layers, gradients)
  truths = zip(rows_of(config), truth(config, gradients), strict=True)
  for seed, (documents, expected) in enumerate(truths):
    batch = batch_of(config, documents, seed)
    result = run(layers, batch.x, memory, batch.weights, 1.0, *batch[2:])
    assert_close(result, expected, 1e-9, 1e-9)
    memory = result[1]


# -- Documents in rows ----------------------------------------------------------------------------

PACKED = [[-4, 7], [-12]]
PLACES = [(0, 4), (4, 7)]  # first token and length of the documents of row 0


def assert_packed_equals_alone(config: MelodiConfig) -> None:
  """Documents of one row give what each gives alone, gradients included."""
  packed, memory = batch_of(config, [PACKED[0], []]), memory_of(config)
  alone = batch_of(config, [[length] for length in PACKED[0]])
  x, weights = np.array(alone.x), np.zeros(alone.x.shape)
  for row, (first, length) in enumerate(PLACES):
    x[row, :length] = packed.x[0, first : first + length]
    weights[row, :length] = packed.weights[0, first : first + length]
  y, after, gradients = read(config, packed, memory)
  own_y, own_after, own_gradients = read(
    config, alone._replace(x=jnp.asarray(x), weights=jnp.asarray(weights)), memory
  )
  assert_close(gradients[0], own_gradients[0], 1e-9, 1e-9)
  for row, (first, length) in enumerate(PLACES):
    for leaf, own in ((y, own_y), (gradients[1], own_gradients[1])):
      assert_close(leaf[0, first : first + length], own[row, :length], 1e-9, 1e-9)
  for leaf, own in zip(after[:2], own_after[:2], strict=True):
    assert_close(leaf[:, 0], own[:, 1], 1e-9, 1e-9)
  assert int(after.windows[0]) == int(own_after.windows[1]) == 2


def assert_gradient_stays_in_document(config: MelodiConfig) -> None:
  """The gradient of a document is exactly 0 at tokens and memory of another."""
  batch = batch_of(config, PACKED)
  for document, (first, length) in enumerate(PLACES):
    own = np.zeros((BATCH, SEGMENT), bool)
    own[0, first : first + length] = True
    weights = jnp.where(own[..., None], batch.weights, 0)
    _, x, short, long = read(config, batch._replace(weights=weights))[2]
    # The last token of a document is seen by none, but its own residual stream.
    assert (np.abs(x[own]).max(-1) > 1e-9).all()
    assert not np.asarray(x)[~own].any()
    for memory in (np.asarray(short), np.asarray(long)):
      assert not memory[:, 1:].any()
      assert not (document and memory.any())


def assert_nan_stays_in_document(config: MelodiConfig) -> None:
  """Nor does a number that is not finite reach another document, or memory."""
  batch, memory = batch_of(config, PACKED), memory_of(config)
  y, after, _ = read(config, batch, memory)
  first, length = PLACES[0]
  broken, broken_after, _ = read(
    config, batch._replace(x=batch.x.at[0, first].set(jnp.nan)), memory
  )
  own = np.zeros((BATCH, SEGMENT), bool)
  own[0, first : first + length] = True
  assert not np.isfinite(np.asarray(broken)[own]).all()
  np.testing.assert_array_equal(np.asarray(broken)[~own], np.asarray(y)[~own])
  assert_close(broken_after, after, 0.0, 0.0)

  # Memory of a document that has ended.
  batch = batch_of(config, [[7, 3], [-12]])
  y, after, _ = read(config, batch, memory)
  broken_memory = memory._replace(
    short=memory.short.at[:, 0].set(jnp.nan), long=memory.long.at[:, 0].set(jnp.nan)
  )
  assert_close(read(config, batch, broken_memory)[:2], (y, after), 0.0, 0.0)
