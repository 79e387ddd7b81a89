"""Memory around a stock block, here one of a few lines: against loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import document_rows, jit, read_rows
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.core.memory import resize
from melodi_plugin.systems.stock.reader import grouped_attention
from melodi_plugin.systems.table import empty_memory
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.segments import draw, value_and_grads
from melodi_plugin.testing.stock import (
  SEGMENT,
  W,
  random_stock_layers,
  sections,
  stock_config,
)
from melodi_plugin.testing.stock_loops import slow_read
from melodi_plugin.testing.tiny import assert_close, random_memory

pytestmark = pytest.mark.usefixtures("float64")

ROWS = [[-9, 4], [16]]  # carried on for two windows, then another document; one of three windows
SPECS = {
  "both memories": {},
  "no branching": dict(summary_branching=False, short_term_tokens=4),
  "no short-term memory": dict(short_term_tokens=0),
  "no summary": dict(summary_tokens=0),
  "no queue": dict(long_term_layers=()),
  "sinks and a cache alone": dict(
    cache_tokens=8, sink_tokens=2, summary_tokens=0, short_term_tokens=0, long_term_layers=()
  ),
  "a cache without sinks": dict(cache_tokens=13, short_term_tokens=0),
  "sinks and mixed tokens": dict(sink_tokens=3),
}
ALL = dict(cache_tokens=4, sink_tokens=2)  # sinks, mixed tokens, a cache, and a queue
SPECS["sinks, mixed tokens, a cache and a queue"] = ALL


def reader(config, schedule="layers", **options):
  """One segment; outputs at padding are zeros."""

  def read(layers, *arguments):
    return read_rows(sections(layers, config, **options), config, *arguments, schedule=schedule)

  return read


@functools.cache
def inputs(config):
  """Layers, tokens, summary, memory, positions, segment ids."""
  memory = random_memory(config, len(ROWS), windows=2, dtype=jnp.float64)
  x = draw(len(ROWS), SEGMENT, config.emb_dim)
  summary = draw(config.summary_tokens, config.emb_dim, seed=1)
  return random_stock_layers(config), x, summary, memory, *document_rows(ROWS, SEGMENT, W)


@pytest.mark.parametrize("name", broad_but(["sinks, mixed tokens, a cache and a queue"], SPECS))
def test_schedules_equal_loops(name):
  config = stock_config(**SPECS[name])
  layers, x, summary, memory, positions, ids = inputs(config)
  slow = slow_read(config, positions, ids, np.asarray(memory.windows))
  truth = jit(slow)(layers, x, summary, memory)
  for schedule in ("layers", "windows", "diagonal"):
    assert_close(jit(reader(config, schedule))(*inputs(config)), truth, 1e-9, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, ALL], ids=["mixed tokens", "all"])
def test_gradients_equal_those_of_loops(changes):
  config = stock_config(**changes)
  layers, x, summary, memory, *document = inputs(config)
  x, positions, ids = (leaf[:, : 2 * W] for leaf in (x, *document))
  slow = slow_read(config, positions, ids, np.asarray(memory.windows))
  arguments = layers, x, summary, memory, draw(*x.shape, seed=3)
  truth = jit(functools.partial(value_and_grads, slow))(*arguments)
  for schedule in ("layers", "windows", "diagonal"):
    fast = reader(config, schedule)
    found = jit(lambda *args, fast=fast: value_and_grads(fast, *args))(*arguments, positions, ids)
    assert_close(found, truth, 1e-6, 1e-6)  # gates and offsets are read in float32


@pytest.mark.broad
@pytest.mark.parametrize("schedule", ["layers", "windows"])
def test_block_that_looks_positions_up_gives_the_same(schedule):
  """The fake one subtracts what the cell adds, and never sees a negative index."""
  config = stock_config()
  plain, shifted = (
    jit(reader(config, schedule, looks_up_positions=flag))(*inputs(config))
    for flag in (False, True)
  )
  assert_close(shifted, plain, 1e-12, 1e-12)


# -- A queue of keys and values ------------------------------------------------------------------


@pytest.mark.broad  # by default verbs_test reads such a queue
def test_a_queue_of_pairs_is_the_queue_of_tokens_while_weights_stay():
  """Two windows of two documents, with gradients, and a segment that goes on in one of them."""
  shape = (len(ROWS), 2 * W)
  begun = np.broadcast_to(np.arange(2 * W, dtype=np.int32), shape), np.ones(shape, np.int32)

  def both_segments(config, layers, x, summary, document):
    read = reader(config)
    empty = jax.tree.map(jnp.asarray, empty_memory(config, len(ROWS), jnp.float64))
    first, memory = read(layers, x[:, : 2 * W], summary, empty, *begun)
    second, memory = read(layers, x, summary, jax.lax.stop_gradient(memory), *document)
    return first, second, memory.long

  def read(config):
    layers, x, summary, _, *document = inputs(config)

    def loss(layers, x, summary):
      first, second, long = both_segments(config, layers, x, summary, document)
      return jnp.sum(jnp.sin(first)), (first, second, long)

    grad = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    return jit(grad)(layers, x, summary)

  ((loss, (*outputs, tokens)), grads), ((same, (*found, pairs)), found_grads) = (
    read(stock_config(long_term_pairs=flag)) for flag in (False, True)
  )
  assert_close((same, found, found_grads), (loss, outputs, grads), 1e-9, 1e-9)
  config = stock_config()
  assert tokens.shape[-1] == config.emb_dim
  assert pairs.shape[-1] == 2 * config.stored_heads * config.head_dim != config.emb_dim


# -- Random compression ----------------------------------------------------------------------------


@pytest.mark.broad
@pytest.mark.parametrize("schedule", ["layers", "windows"])
def test_queue_of_which_windows_are_hidden_is_a_shorter_queue(schedule):
  """Row by row, of what earlier segments have left as of what this one writes."""
  config, short = stock_config(), stock_config(long_term_windows=1)
  layers, x, summary, memory, positions, ids = inputs(config)
  cut = resize(memory, short.queue_tokens, short.long_term_increment)
  hidden = jnp.asarray([config.long_term_windows - 1, 0], jnp.int32)

  @functools.partial(jit, static_argnums=0)
  def read(config, layers, x, memory, hidden):
    own = sections(layers, config)
    options = dict(schedule=schedule, hidden=hidden)
    return read_rows(own, config, x, summary, memory, positions, ids, **options)[0]

  none = jnp.zeros_like(hidden)
  found, whole, plain = (read(config, layers, x, memory, how) for how in (hidden, none, None))
  less = read(short, layers, x, cut, none)
  assert_close(found[0], less[0], 1e-12, 1e-12)
  np.testing.assert_array_equal(found[1], whole[1])
  assert np.abs(whole[0] - less[0]).max() > 1e-3
  np.testing.assert_array_equal(whole, plain)


# -- Who sees what ---------------------------------------------------------------------------------


@functools.cache
def sensitivity():
  """d(outputs of every token) / d(short-term memory, queue, tokens), summed over channels."""
  config = stock_config()
  layers, x, summary, memory, positions, ids = inputs(config)
  read = reader(config)

  def outputs(x, short, long):
    own = memory._replace(short=short, long=long)
    y, _ = read(layers, x, summary, own, positions, ids)
    return (y * draw(config.emb_dim, seed=4)).sum(-1)

  jacobians = jit(jax.jacrev(outputs, argnums=(0, 1, 2)))(x, memory.short, memory.long)
  return [np.asarray(leaf) for leaf in jacobians]


def test_first_token_of_a_window_sees_nothing_but_itself_and_the_others_see_memory():
  by_x, by_short, by_long = sensitivity()
  assert not by_short[0, 0].any() and not by_long[0, 0].any()
  for token in range(1, W):
    assert by_short[0, token, :, 0].any(axis=-1).all()  # in both layers, every slot
    assert by_long[0, token, :, 0].any(axis=-1).all()
  assert by_x[0, 0, 0, 0].any() and not by_x[0, 0, 0, 1:].any()
  # The first token of the second window is not moved by the first window.
  assert not by_x[0, W, 0, :W].any() and by_x[0, W + 1, 0, :W].any()


def test_gradient_is_exactly_zero_across_documents_rows_and_padding():
  by_x, by_short, by_long = sensitivity()
  assert not by_x[0, :, 1].any() and not by_x[1, :, 0].any()
  second = slice(2 * W, 2 * W + 4)  # of row 0: another document
  assert not by_x[0, second, 0, : 2 * W].any()
  assert not by_short[0, second].any() and not by_long[0, second].any()
  assert not by_short[1].any() and not by_long[1].any()  # row 1 starts a document
  assert not by_x[0, second, 0, 9 : 2 * W].any()  # padding
  assert not by_x[0, :9, 0, 9:].any()


def test_documents_packed_in_a_row_give_what_each_gives_alone():
  config = stock_config()
  layers, x, summary, memory, positions, ids = inputs(config)
  y, after = jit(reader(config))(layers, x, summary, memory, positions, ids)
  alone_positions, alone_ids = document_rows([[-9], [4]], SEGMENT, W)
  apart = jnp.stack([x[0], jnp.roll(x[0], -2 * W, axis=0)])
  arguments = layers, apart, summary, memory, alone_positions, alone_ids
  alone, alone_after = jit(reader(config))(*arguments)
  assert_close(y[0, :9], alone[0, :9], 1e-12, 1e-12)
  assert_close(y[0, 2 * W : 2 * W + 4], alone[1, :4], 1e-12, 1e-12)
  last = lambda memory, row: (memory.short[:, row], memory.long[:, row], memory.windows[row])  # noqa: E731
  assert_close(last(after, 0), last(alone_after, 1), 1e-12, 1e-12)


@pytest.mark.broad  # without gradients around real blocks in stock_block_test
def test_memory_that_is_hidden_has_finite_gradients_and_no_say():
  config = stock_config()
  layers, x, summary, memory, positions, ids = inputs(config)
  hidden = [
    layer._replace(
      offset=jnp.full_like(layer.offset, -math.inf),
      gate=None if layer.gate is None else jnp.full_like(layer.gate, math.inf),
    )
    for layer in layers
  ]

  def loss(layers, x, short, long):
    own = memory._replace(short=short, long=long)
    y, _ = reader(config)(layers, x, summary, own, positions, ids)
    return jnp.sum(jnp.sin(y))

  grads = jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(hidden, x, memory.short, memory.long)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
  assert not grads[2].any() and not grads[3].any() and grads[1].any()


def test_grouped_attention_equals_attention_with_repeated_keys():
  query, key, value = (draw(2, 5, n, 4, seed=n) for n in (6, 2, 2))
  key, value = key, draw(2, 5, 2, 4, seed=9)
  visible = jnp.tril(jnp.ones((1, 5, 5), bool))
  bias = draw(6, 5, seed=8)
  found = grouped_attention(query, KeyValues(key, value, visible[:, 0]), visible, 2.0, bias)
  key, value = (jnp.repeat(leaf, 3, axis=2) for leaf in (key, value))
  logits = 2.0 * jnp.tanh(jnp.einsum("btnh,bsnh->bnts", query, key) / 2.0) + bias[None, :, None]
  weights = jax.nn.softmax(jnp.where(visible[:, None], logits, -jnp.inf))
  assert_close(found, jnp.einsum("bnts,bsnh->btnh", weights, value), 1e-12, 1e-12)
