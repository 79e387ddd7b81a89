"""Rows read by the verbs of a stack give what the schedule gives: every system, every variant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import (
  assert_close,
  document_rows,
  jit,
  read_rows,
  stack_layers,
)
from melodi_plugin.conformance.verbs import LENGTHS, Stack, assert_verbs_equal_schedule
from melodi_plugin.core import decoding
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.systems.table import empty_memory
from melodi_plugin.testing import baselines, stock
from melodi_plugin.testing.baselines import block_recurrent, memorizing, transformer_xl
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.segments import small_config
from melodi_plugin.testing.tiny import quick_layers, random_memory

pytestmark = pytest.mark.usefixtures("float64")

MELODI = {
  "melodi": {},
  "melodi, S is not U": dict(short_term_tokens=3),
  "melodi, no branching": dict(summary_branching=False),
  "melodi, no short-term memory": dict(short_term_tokens=0),
  "melodi, no queue": dict(long_term_increment=0),
  "melodi, no summary": dict(summary_tokens=0),
  "melodi, masked": dict(mask_empty_slots=True),
}
OTHERS = {
  "xl": transformer_xl(),
  "xl, rotary": transformer_xl(position="rotary"),
  "xl, no position": transformer_xl(position="none"),
  "xl, longer cache": transformer_xl(cache_tokens=10),
  "xl, sinks": transformer_xl(cache_tokens=6, sink_tokens=3),
  "xl, sinks, shorter cache": transformer_xl(cache_tokens=1, sink_tokens=2, position="rotary"),
  "xl, reference": transformer_xl(reference_defects=True),
  "dense": memorizing(),
  "dense, reference": memorizing(queue_windows=3, reference_defects=True),
  "blocked": memorizing(2),
  "exact": memorizing(3, exact=True),
  "blocked, reference": memorizing(2, queue_windows=3, reference_defects=True),
  "feedback": block_recurrent(feedback=True, memory_layers=(1,)),
  "feedback, lstm": block_recurrent("lstm", "dual", feedback=True, memory_layers=(0,)),
  "states, reference": block_recurrent(reference_defects=True),
} | {
  f"{gate} {cell}": block_recurrent(gate, cell)
  for gate in ("bias", "lstm")
  for cell in ("skip", "dual", "single")
}
STOCK = {
  "stock": {},
  "stock, looks positions up": dict(looks_up_positions=True),
  "stock, no branching": dict(summary_branching=False, short_term_tokens=4),
  "stock, no short-term memory": dict(short_term_tokens=0),
  "stock, no summary": dict(summary_tokens=0),
  "stock, sinks and a cache": dict(cache_tokens=8, sink_tokens=2, short_term_tokens=0),
  "stock, a queue of pairs": dict(long_term_pairs=True),
  "stock, all": dict(cache_tokens=4, sink_tokens=2, long_term_pairs=True),
}


def batch_of(config, seed=0):
  """Tokens, memory, positions and segment ids of rows that are five windows long."""
  window = config.window_length
  lengths = [[round(windows * window) for windows in row] for row in LENGTHS]
  positions, ids = document_rows(lengths, 5 * window, window)
  x = jnp.asarray(baselines.draw(seed, *ids.shape, config.emb_dim))
  return x, random_memory(config, len(ids), windows=1, dtype=jnp.float64), positions, ids


# One of each kind reads token by token in frames of one token, as decoding does.
FRAMES_OF_ONE = ("melodi", "dense", "blocked", "lstm dual", "feedback", "stock")


def assert_holds(name, config, layers, sections):
  """`sections` makes a stack of layers."""
  summary = jnp.asarray(baselines.draw(1, config.summary_tokens, config.emb_dim))
  stack = Stack(config, functools.partial(sections, config=config), layers, summary)
  frame = 1 if name in FRAMES_OF_ONE else config.window_length
  x, memory, positions, ids = batch_of(config)
  # The official queue drops nothing before its segment is over; by verbs every window is one.
  windows = 1 if config.reference_defects and config.long_term_windows > 1 else 5
  x, positions, ids = (leaf[:, : windows * config.window_length] for leaf in (x, positions, ids))
  assert_verbs_equal_schedule(stack, x, memory, positions, ids, frame=frame)


stacked = functools.partial(stack_layers, dtype=jnp.float64)


# One of each kind that is read another way is broad or runs by default; what the others are is
# compared with the slow loops by the tests of readers, and by verbs in the slow run.
QUICK = ("melodi", "xl, sinks", "feedback", "lstm dual", "stock, all")
BROAD = (
  "dense",
  "melodi, no summary",
  "melodi, masked",
  "xl",
  "dense, reference",
  "blocked",
  "stock",
  "stock, looks positions up",
)


def each(names):
  """A parameter of tests."""
  known = [name for name in names if name in QUICK]
  return broad_but(known, names, slow=[name for name in names if name not in (*QUICK, *BROAD)])


@pytest.mark.parametrize("name", each(MELODI))
def test_melodi(name):
  config = small_config(**MELODI[name])
  assert_holds(name, config, quick_layers(config), stacked)


@pytest.mark.parametrize("name", each(OTHERS))
def test_systems_that_melodi_is_compared_with(name):
  assert_holds(name, OTHERS[name], baselines.random_layers(OTHERS[name]), stacked)


@pytest.mark.parametrize("name", each(STOCK))
def test_memory_around_a_stock_block(name):
  changes = dict(STOCK[name])
  looks_up = changes.pop("looks_up_positions", False)
  config = stock.stock_config(**changes)
  sections = functools.partial(stock.sections, looks_up_positions=looks_up)
  assert_holds(name, config, stock.random_stock_layers(config), sections)


@pytest.mark.parametrize(
  "name",
  broad_but(
    [],
    ["melodi", "feedback", "stock", "dense", "lstm dual"],
    slow=["dense", "lstm dual"],
  ),
)
def test_rows_are_exact_at_every_token(name):
  """Documents of five windows, cut anywhere and at other places in every row, read in two calls."""
  if name == "stock":
    config = stock.stock_config()
    layers, sections = stock.random_stock_layers(config), stock.sections
  else:
    config = small_config() if name == "melodi" else OTHERS[name]
    layers = quick_layers(config) if name == "melodi" else baselines.random_layers(config)
    sections = stacked
  batch, window = 3, config.window_length
  length = 5 * window
  summary = jnp.asarray(baselines.draw(1, config.summary_tokens, config.emb_dim))
  stack = Stack(config, functools.partial(sections, config=config), layers, summary)
  positions, ids = document_rows([[length]] * batch, length, window)
  x = jnp.asarray(baselines.draw(0, batch, length, config.emb_dim))
  empty, place = empty_memory(config, batch, jnp.float64), np.arange(length)

  @jit
  def whole(x):
    own, schedule = stack.sections_of(layers), "windows" if name == "feedback" else "layers"
    read = read_rows(own, config, x, summary, empty, positions, ids, schedule=schedule)
    return read, decoding.begin(own, empty)

  @jit
  def read(rows, x, valid):
    return decoding.read(stack.sections_of(layers), rows, x, valid, summary)

  @jit
  def close_all(rows):
    own = stack.sections_of(layers)
    rows = decoding.close(own, rows, summary, jnp.ones(batch, bool))
    return decoding.memory_of(own, rows, empty)

  (expected, after), fresh = whole(x)
  for first in range(length + 1):
    cut = (first + np.arange(batch) * (window + 1)) % (length + 1)
    y, rows = read(fresh, x, jnp.asarray(place < cut[:, None]))
    np.testing.assert_array_equal(rows.held * window + rows.count, cut)
    rest = np.minimum(place + cut[:, None], length - 1)
    tail = jnp.take_along_axis(x, jnp.asarray(rest)[..., None], 1)
    z, rows = read(rows, tail, jnp.asarray(place + cut[:, None] < length))
    for row, at in enumerate(cut):
      both = np.concatenate([y[row, :at], z[row, : length - at]])
      np.testing.assert_allclose(both, expected[row], rtol=1e-9, atol=1e-9)
  assert rows.count.tolist() == [window] * batch  # closed when they read on, and not before
  assert_close(close_all(rows), after, 1e-9, 1e-9)


def test_rows_are_taken_and_put_back_by_their_places():
  numbers = np.arange(2 * 4 * 3).reshape(2, 4, 3)  # two layers, four rows
  rows = decoding.OpenRows(
    [LayerMemory(numbers, ())], [numbers + 100], [numbers + 200], np.arange(4), np.arange(4) + 4
  )
  two = decoding.take(rows, jnp.array([3, 1]))
  assert (two.held.tolist(), two.count.tolist()) == ([3, 1], [7, 5])
  np.testing.assert_array_equal(two.recall[0], rows.recall[0][:, [3, 1]])
  moved = decoding.put(jax.tree.map(jnp.asarray, rows), jnp.array([0, 4]), two)  # no row 4: dropped
  expected = decoding.take(rows, jnp.array([3, 1, 2, 3]))
  jax.tree.map(np.testing.assert_array_equal, moved, expected)
