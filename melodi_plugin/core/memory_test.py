"""Writes of single windows, the replay of a segment, and what a row with a NaN keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import document_rows
from melodi_plugin.core.memory import (
  LayerMemory,
  Memory,
  push,
  replay,
  rewrite,
  settle,
)
from melodi_plugin.core.segments import plan_windows
from melodi_plugin.systems.table import empty_memory
from melodi_plugin.testing.tiny import random_memory, tiny_config

D, S, L, Q, W = 2, 3, 2, 3, 4
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
compiled_settle = jit(settle)


def numbered(first, batch, tokens):
  """Tokens that name themselves: token t of row b is 100 b + first + t, in every channel."""
  names = 100.0 * np.arange(batch)[:, None] + first + np.arange(tokens)
  return jnp.asarray(np.repeat(names[..., None], D, axis=2), jnp.float32)


def names(tokens):
  """The inverse of `numbered`."""
  np.testing.assert_array_equal(tokens[..., 0], tokens[..., 1])
  return np.asarray(tokens)[..., 0].tolist()


def test_memory_of_layers_that_have_it():
  config = tiny_config(long_term_layers=(0, 2), short_term_layers=(1,))
  memory = empty_memory(config, 5, jnp.bfloat16)
  assert [leaf.shape for leaf in memory] == [(1, 5, 4, 16), (2, 5, 6, 16), (5,)]
  assert [leaf.dtype for leaf in memory] == [jnp.bfloat16, jnp.bfloat16, jnp.int32]
  assert not any(leaf.any() for leaf in memory)


@pytest.mark.parametrize("changes", [dict(long_term_increment=0), dict(long_term_windows=0)])
def test_turned_off_queue_has_no_layers(changes):
  config = tiny_config(short_term_tokens=0, **changes)
  assert [leaf.size for leaf in empty_memory(config, 5)] == [0, 0, 5]


def test_push_drops_the_oldest_and_appends_in_order():
  after = push(numbered(0, 2, 6), numbered(50, 2, 2))
  assert names(after) == [[2, 3, 4, 5, 50, 51], [102, 103, 104, 105, 150, 151]]


def test_push_of_a_whole_queue_replaces_it():
  assert names(push(numbered(0, 1, 2), numbered(50, 1, 2))) == [[50, 51]]


def test_push_to_no_queue_changes_nothing():
  assert push(jnp.zeros((2, 0, D)), jnp.zeros((2, 0, D))).shape == (2, 0, D)


def write(memory, short, increment, writes):
  """What a closed window does to the memory of its layer."""
  return rewrite(memory, LayerMemory(short, push(memory.long, increment)), writes)


def test_only_rows_that_read_text_are_written():
  memory = LayerMemory(numbered(0, 2, S), numbered(10, 2, Q * L))
  after = write(memory, numbered(20, 2, S), numbered(50, 2, L), jnp.array([False, True]))
  assert names(after.short) == [[0, 1, 2], [120, 121, 122]]
  assert names(after.long) == [[10, 11, 12, 13, 14, 15], [112, 113, 114, 115, 150, 151]]


def test_writes_keep_the_dtype_of_the_memory():
  memory = LayerMemory(jnp.zeros((1, S, D), jnp.bfloat16), jnp.zeros((1, Q * L, D), jnp.bfloat16))
  after = write(memory, jnp.ones((1, S, D)), jnp.ones((1, L, D)), jnp.array([True]))
  assert (after.short.dtype, after.long.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_nan_of_a_window_of_padding_is_not_written():
  memory = LayerMemory(numbered(0, 1, S), numbered(10, 1, Q * L))
  nan = jnp.full((1, S, D), jnp.nan), jnp.full((1, L, D), jnp.nan)
  after = write(memory, *nan, jnp.array([False]))
  assert names(after.short) == names(memory.short)
  assert names(after.long) == names(memory.long)


compiled_plan = jit(functools.partial(plan_windows, window_length=W, queue_windows=Q))


def plan(rows, held):
  """The plan of rows of six windows."""
  return compiled_plan(*document_rows(rows, 6 * W, W), np.array(held, np.int32))


def test_replay_equals_a_python_list_that_forgets():
  windows = plan([[-6, 9, 4], [24], [-9], [-8, 13]], [3, 0, 1, 2])
  increments = [numbered(50 + 5 * k, 4, L) for k in range(6)]
  start = numbered(0, 4, Q * L)
  after = jit(replay)(start, jnp.stack(increments), windows)
  for row in range(4):
    queue = names(start)[row]
    for k in range(6):
      if windows.starts[k, row]:
        queue = [0.0] * (Q * L)
      if windows.writes[k, row]:
        queue = queue[L:] + names(increments[k])[row]
    assert names(after)[row] == queue, row


def stack_of(value, batch=4, held=5):
  """A memory of two short layers and one long layer, all of one number."""
  return Memory(
    jnp.full((2, batch, S, D), value),
    jnp.full((1, batch, Q * L, D), value),
    jnp.full(batch, held, jnp.int32),
  )


# Continued to the end, continued and padded, a start in mid-segment, nothing but padding.
SETTLED_ROWS, SETTLED_HELD = [[-24], [-9], [-8, 9], []], [11, 8, 3, 5]


@pytest.mark.parametrize("nan", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("part, layer", [("short", 0), ("short", 1), ("long", 0)])
def test_non_finite_row_keeps_its_old_memory_and_its_count(nan, part, layer):
  old, new, windows = stack_of(1.0), stack_of(2.0), plan(SETTLED_ROWS, [5] * 4)
  for row in range(4):
    broken = new._replace(**{part: getattr(new, part).at[layer, row, -1, -1].set(nan)})
    after = compiled_settle(old, broken, windows)
    for other in range(4):
      restarted = other == 2
      value = 2.0 if other != row else 0.0 if restarted else 1.0
      count = SETTLED_HELD[other] if other != row else 0 if restarted else 5
      assert (after.short[:, other] == value).all()
      assert (after.long[:, other] == value).all()
      assert after.windows[other] == count


def test_finite_rows_take_the_new_memory_and_count_their_windows():
  after = compiled_settle(stack_of(1.0), stack_of(2.0), plan(SETTLED_ROWS, [5] * 4))
  assert (after.short == 2.0).all()
  assert (after.long == 2.0).all()
  assert after.windows.tolist() == SETTLED_HELD
  assert after.windows.dtype == jnp.int32


def test_nan_of_the_document_before_is_forgotten_even_if_the_row_breaks_again():
  nan = stack_of(jnp.nan)
  after = compiled_settle(nan, nan, plan(SETTLED_ROWS, [5] * 4))
  assert (after.short[:, 2] == 0).all()
  assert (after.long[:, 2] == 0).all()


def test_stack_without_memory_still_counts_windows():
  config = tiny_config(summary_tokens=0, short_term_tokens=0, long_term_layers=())
  memory = empty_memory(config, 4)
  after = compiled_settle(memory, memory, plan(SETTLED_ROWS, [0] * 4))
  assert after.windows.tolist() == [6, 3, 3, 0]


def test_random_memory_has_empty_slots_before_the_windows_that_it_holds():
  memory = random_memory(tiny_config(), batch=2, windows=2)
  assert not memory.long[:, :, :2].any()
  assert memory.long[:, :, 2:].all()
  assert memory.windows.tolist() == [2, 2]
