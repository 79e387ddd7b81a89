"""Rows read by the verbs of a stack give what the schedule gives: every system, every variant."""

import functools

import jax.numpy as jnp
import pytest

from melodi_plugin.conformance.stacks import document_rows, stack_layers
from melodi_plugin.conformance.verbs import LENGTHS, Stack, assert_verbs_equal_schedule
from melodi_plugin.systems.paper.reader_test import small_config
from melodi_plugin.testing import baselines, stock
from melodi_plugin.testing.baselines import block_recurrent, memorizing, transformer_xl
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


@pytest.mark.parametrize("name", MELODI)
def test_melodi(name):
  config = small_config(**MELODI[name])
  assert_holds(name, config, quick_layers(config), stacked)


# Of these only the rewriting of states differs from others here, or what is stored.
SLOW = ("bias dual", "bias single", "lstm skip", "lstm single", "xl, reference", "xl, no position")


@pytest.mark.parametrize(
  "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in OTHERS]
)
def test_systems_that_melodi_is_compared_with(name):
  assert_holds(name, OTHERS[name], baselines.random_layers(OTHERS[name]), stacked)


@pytest.mark.parametrize("name", STOCK)
def test_memory_around_a_stock_block(name):
  changes = dict(STOCK[name])
  looks_up = changes.pop("looks_up_positions", False)
  config = stock.stock_config(**changes)
  sections = functools.partial(stock.sections, looks_up_positions=looks_up)
  assert_holds(name, config, stock.random_stock_layers(config), sections)
