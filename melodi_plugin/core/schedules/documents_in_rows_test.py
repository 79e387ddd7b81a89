"""Packed = alone: what a document gives does not depend on what shares its batch row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import document_rows, read_rows, stack_layers
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.tiny import assert_close, quick_layers, random_memory, tiny_config

pytestmark = pytest.mark.usefixtures("float64")

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
W, SEGMENT, BATCH = 4, 24, 4
# Six windows; the queue of two forgets.  The memory of rows 0 and 1 is of their first document.
CONFIG = tiny_config(
  window_length=W,
  num_layers=2,
  long_term_layers=(1,),
  short_term_layers=(0, 1),
  long_term_windows=2,
)
PACKED = [[-6, 9, 4], [-13, 5], [], []]
# Row, first token and length of every document of the packed batch.
PLACES = [(0, 0, 6), (0, 8, 9), (0, 20, 4), (1, 0, 13), (1, 16, 5)]
# That windows give the same as layers, gradients included, is in segment_test.
each_schedule = pytest.mark.parametrize("schedule", broad_but(["layers"], ["layers", "windows"]))


@functools.cache
def compiled(schedule):
  """Outputs, memory and all gradients of `sum(y * weights)`, with y also at padding."""

  def loss(layers, x, summary, short, long, held, positions, ids, weights):
    memory = random_memory(CONFIG, BATCH, dtype=jnp.float64)
    memory = memory._replace(short=short, long=long, windows=held)
    sections = stack_layers(layers, CONFIG, dtype=jnp.float64)
    arguments = x, summary, memory, positions, ids
    y, after = read_rows(sections, CONFIG, *arguments, schedule=schedule)
    return jnp.sum(y * weights), (y, after)

  return jit(jax.grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))


@functools.cache
def layers_and_summary():
  summary = draw(9, CONFIG.summary_tokens, CONFIG.emb_dim)
  return quick_layers(CONFIG), jnp.asarray(summary)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape)


class Batch:
  """Rows of tokens with weights for the loss; padding holds noise, of weight zero."""

  def __init__(self, rows, seed=0):
    self.positions, self.ids = document_rows(rows, SEGMENT, W)
    self.x = draw(seed, BATCH, SEGMENT, CONFIG.emb_dim)
    self.weights = np.where(self.ids[..., None] > 0, draw(seed + 1, *self.x.shape), 0)
    self.memory = random_memory(CONFIG, BATCH, seed, dtype=jnp.float64)

  def read(self, schedule="layers", weights=None):
    """Outputs, memory after, and the gradients of layers, x, summary, short, long."""
    weights = self.weights if weights is None else weights
    plan = [jnp.asarray(leaf) for leaf in (self.positions, self.ids, weights)]
    layers, summary = layers_and_summary()
    gradients, (y, memory) = compiled(schedule)(
      layers, jnp.asarray(self.x), summary, *self.memory, *plan
    )
    return y, memory, gradients

  def only(self, row, document):
    """The weights of one document."""
    own = np.zeros(self.ids.shape, bool)
    own[row] = self.ids[row] == document
    return np.where(own[..., None], self.weights, 0)


@functools.cache
def packed(schedule="layers"):
  """The packed batch (not to be written to), and what it gives."""
  batch = Batch(PACKED)
  return batch, batch.read(schedule)


def alone(documents):
  """The documents of `PLACES` with these numbers, each in a row of its own."""
  source = Batch(PACKED)
  continued = [PLACES[d][1] == 0 for d in documents]
  lengths = [PLACES[d][2] for d in documents]
  rows = [[-n if old else n] for n, old in zip(lengths, continued, strict=True)]
  batch = Batch(rows + [[]] * (BATCH - len(rows)), seed=5)
  short, long = np.array(batch.memory.short), np.array(batch.memory.long)
  for row, d in enumerate(documents):
    origin, first, length = PLACES[d]
    for name in ("x", "weights"):
      getattr(batch, name)[row, :length] = getattr(source, name)[origin, first : first + length]
    if continued[row]:
      short[:, row], long[:, row] = source.memory.short[:, origin], source.memory.long[:, origin]
  batch.memory = batch.memory._replace(short=jnp.asarray(short), long=jnp.asarray(long))
  return batch


@each_schedule
def test_documents_packed_in_rows_give_what_each_gives_alone(schedule):
  _, (y, memory, (layers, x, summary, short, long)) = packed(schedule)
  parts = [([0, 1, 2, 3], alone([0, 1, 2, 3]).read(schedule)), ([4], alone([4]).read(schedule))]
  for documents, (own_y, own_memory, gradients) in parts:
    for row, d in enumerate(documents):
      origin, first, length = PLACES[d]
      packed_part = [leaf[origin, first : first + length] for leaf in (y, x)]
      assert_close(packed_part, [leaf[row, :length] for leaf in (own_y, gradients[1])], 1e-9, 1e-9)
      if first == 0:  # the gradient of the memory goes to the document that it is of
        own = [leaf[:, row] for leaf in gradients[3:]]
        assert_close([short[:, origin], long[:, origin]], own, 1e-9, 1e-9)
      if d in (2, 4):  # the last of its row: it leaves the memory
        leaves = [memory.short[:, origin], memory.long[:, origin], memory.windows[origin]]
        own = [own_memory.short[:, row], own_memory.long[:, row], own_memory.windows[row]]
        assert_close(leaves, own, 1e-9, 1e-9)
  sums = jax.tree.map(lambda *leaves: sum(leaves), *(part[2] for _, part in parts))
  assert_close((layers, summary), (sums[0], sums[2]), 1e-9, 1e-9)


@each_schedule
@pytest.mark.parametrize("row, document", [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)])
def test_gradient_does_not_cross_documents(schedule, row, document):
  batch, _ = packed()
  _, _, (_, x, _, short, long) = batch.read(schedule, batch.only(row, document))
  own = np.zeros(batch.ids.shape, bool)
  own[row] = batch.ids[row] == document
  assert (x[~own] == 0).all()
  # Only the document that the memory is of reads it.
  for memory in (np.asarray(short), np.asarray(long)):
    others = np.arange(BATCH) != row
    assert not memory[:, others].any()
    assert memory[:, row].any() == (document == 1)


@each_schedule
def test_gradient_reaches_earlier_windows_of_the_document_and_no_later_ones(schedule):
  batch, _ = packed()
  # Document 1 of row 1 fills windows 0 to 3; look from its third window.
  weights = np.zeros_like(batch.weights)
  weights[1, 2 * W : 3 * W] = batch.weights[1, 2 * W : 3 * W]
  x = np.asarray(batch.read(schedule, weights)[2][1])
  assert (np.abs(x[1, : 3 * W]).max(-1) > 1e-6).all()
  assert not x[1, 3 * W :].any()


def test_memory_that_comes_in_is_a_plain_input():
  """A trainer that hands memory on as data lets no gradient cross segments; none is cut inside."""
  *_, short, long = packed()[1][2]
  continued = np.arange(BATCH) < 2
  for memory in (np.asarray(short), np.asarray(long)):
    # Slots of the queue that no window has filled are zero tokens, and still have a gradient.
    assert (np.abs(memory[:, continued]).max(-1) > 1e-9).all()
    assert not memory[:, ~continued].any()


@each_schedule
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row, document", [(0, 1), (0, 2), (1, 1)])
def test_nan_in_a_document_reaches_no_other_document_nor_the_memory(schedule, bad, row, document):
  _, (y, memory, _) = packed(schedule)
  batch = Batch(PACKED)
  first = int(np.argmax(batch.ids[row] == document))
  batch.x[row, first + 1] = bad
  broken, after, _ = batch.read(schedule)
  own = batch.ids == document
  own[np.arange(BATCH) != row] = False
  assert not np.isfinite(broken)[own].all()
  np.testing.assert_array_equal(np.asarray(broken)[~own], np.asarray(y)[~own])
  assert_close(after, memory, 0.0, 0.0)


@each_schedule
def test_nan_in_the_last_document_of_a_row_empties_its_memory(schedule):
  _, (y, memory, _) = packed(schedule)
  batch = Batch(PACKED)
  batch.x[0, 21] = np.nan
  broken, after, _ = batch.read(schedule)
  np.testing.assert_array_equal(broken[0, :20], y[0, :20])
  np.testing.assert_array_equal(broken[1:], y[1:])
  assert not after.short[:, 0].any()
  assert not after.long[:, 0].any()
  assert after.windows.tolist() == [0, *memory.windows[1:].tolist()]
  assert_close(after.short[:, 1:], memory.short[:, 1:], 0.0, 0.0)
  assert_close(after.long[:, 1:], memory.long[:, 1:], 0.0, 0.0)


@each_schedule
def test_nan_memory_of_the_document_before_is_not_seen(schedule):
  batch = Batch([[8, 9], [24], [4], []])
  y, memory, _ = batch.read(schedule)
  batch.memory = batch.memory._replace(
    short=batch.memory.short.at[:, :3].set(jnp.nan), long=batch.memory.long.at[:, :3].set(jnp.nan)
  )
  broken, after, _ = batch.read(schedule)
  assert_close((broken, after), (y, memory), 0.0, 0.0)


@each_schedule
def test_content_of_padding_changes_nothing_and_has_no_gradient(schedule):
  _, (y, memory, gradients) = packed(schedule)
  batch = Batch(PACKED)
  padding = batch.ids == 0
  batch.x[padding] = 1e3 * draw(7, *batch.x[padding].shape)
  garbage = batch.read(schedule)
  assert_close(garbage, (y, memory, gradients), 1e-9, 1e-9)
  assert not np.asarray(garbage[2][1])[padding].any()


@each_schedule
def test_row_of_padding_keeps_its_memory(schedule):
  batch, (_, memory, _) = packed(schedule)
  assert_close(memory.short[:, 2:], batch.memory.short[:, 2:], 0.0, 0.0)
  assert_close(memory.long[:, 2:], batch.memory.long[:, 2:], 0.0, 0.0)
  assert memory.windows.tolist() == [1, 2, 2, 2]
