"""Plans of hand-made rows, and the reset rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.conformance.stacks import document_rows
from melodi_plugin.core.segments import plan_windows, reset, select_rows

W = 4
compiled = functools.partial(
  jax.jit,
  static_argnames=("window_length", "queue_windows", "reset_every_window"),
  compiler_options={"xla_backend_optimization_level": 0},
)(plan_windows)


def plan(positions, ids, held, queue_windows=8, **more):
  """The plan with the batch in front, as numpy: rows are easier to read than columns."""
  windows = compiled(
    jnp.asarray(positions, jnp.int32),
    jnp.asarray(ids, jnp.int32),
    jnp.asarray(held, jnp.int32),
    window_length=W,
    queue_windows=queue_windows,
    **more,
  )
  return jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), 0, 1), windows)


def plan_of_row(lengths, held, windows, **more):
  """The plan of one row of documents (see `document_rows`), without the batch axis."""
  positions, ids = document_rows([lengths], windows * W, W)
  return jax.tree.map(lambda leaf: leaf[0], plan(positions, ids, [held], **more))


def flags(text):
  return [mark == "x" for mark in text]


def assert_plan(row, **expected):
  for name, want in expected.items():
    if isinstance(want, str):
      want = flags(want)
    elif isinstance(want[0], str):
      want = [flags(line) for line in want]
    np.testing.assert_array_equal(getattr(row, name), want, err_msg=name)


def test_row_that_is_continued():
  assert_plan(
    plan_of_row([-14], held=5, windows=4),
    valid=["xxxx", "xxxx", "xxxx", "xx.."],
    starts="....",
    writes="xxxx",
    held=[5, 6, 7, 8],
    pushed=[0, 1, 2, 3],
    carried="xxxx",
    recent=["....", "x...", "xx..", "xxx."],
  )


def test_row_whose_first_window_starts_a_document():
  assert_plan(
    plan_of_row([16], held=5, windows=4),
    starts="x...",
    held=[0, 1, 2, 3],
    pushed=[0, 1, 2, 3],
    carried="....",
    recent=["....", "x...", "xx..", "xxx."],
  )


def test_row_of_the_end_of_one_document_and_two_others():
  assert_plan(
    plan_of_row([-6, 9, 4], held=3, windows=6),
    valid=["xxxx", "xx..", "xxxx", "xxxx", "x...", "xxxx"],
    starts="..x..x",
    writes="xxxxxx",
    held=[3, 4, 0, 1, 2, 0],
    pushed=[0, 1, 0, 1, 2, 0],
    carried="xx....",
    recent=["......", "x.....", "......", "..x...", "..xx..", "......"],
  )


def test_document_shorter_than_a_window_is_one_padded_window():
  assert_plan(
    plan_of_row([1, 2], held=9, windows=2),
    valid=["x...", "xx.."],
    starts="xx",
    writes="xx",
    held=[0, 0],
    pushed=[0, 0],
  )


def test_windows_of_padding_after_a_document_write_nothing():
  assert_plan(
    plan_of_row([-6], held=3, windows=4),
    starts="....",
    writes="xx..",
    held=[3, 4, 5, 5],
    pushed=[0, 1, 2, 2],
    carried="xxxx",
    recent=["....", "x...", "xx..", "xx.."],
  )


def test_windows_of_padding_in_the_middle_are_not_counted():
  ids = np.repeat([[1, 0, 1, 0, 2, 0, 2]], W, axis=1)
  positions = np.zeros_like(ids)
  positions[0, : 1 * W] = 8 + np.arange(W)
  positions[0, 2 * W : 3 * W] = 12 + np.arange(W)
  positions[0, 4 * W : 5 * W] = np.arange(W)
  positions[0, 6 * W :] = 4 + np.arange(W)
  row = jax.tree.map(lambda leaf: leaf[0], plan(positions, ids, [2], queue_windows=1))
  assert_plan(
    row,
    starts="....x..",
    writes="x.x.x.x",
    held=[2, 3, 3, 4, 0, 1, 1],
    pushed=[0, 1, 1, 2, 0, 1, 1],
    carried="xxxx...",
    # Q = 1: the queue still holds window 0 after a window of padding, until window 2 pushes.
    recent=[
      ".......",
      "x......",
      "x......",
      "..x....",
      ".......",
      "....x..",
      "....x..",
    ],
  )


@pytest.mark.parametrize("position", [0, -1])
def test_placeholder_batch_starts_and_writes_nothing(position):
  shape = (1, 3 * W)
  row = plan(np.full(shape, position), np.zeros(shape), [7])
  assert_plan(
    jax.tree.map(lambda leaf: leaf[0], row),
    valid=["....", "....", "...."],
    starts="...",
    writes="...",
    held=[7, 7, 7],
    pushed=[0, 0, 0],
    carried="xxx",
    recent=["...", "...", "..."],
  )


def test_only_position_zero_at_the_head_of_a_window_starts_a_document():
  positions = [[8, 0, 1, 2, 1, 2, 3, 4, -1, 0, 1, 2, 0, 1, 2, 3]]
  assert_plan(jax.tree.map(lambda leaf: leaf[0], plan(positions, [[1] * 16], [2])), starts="...x")


@pytest.mark.parametrize(
  "queue_windows, recent",
  [
    (0, [".....", ".....", ".....", ".....", "....."]),
    (1, [".....", "x....", ".x...", "..x..", "...x."]),
    (2, [".....", "x....", "xx...", ".xx..", "..xx."]),
    (4, [".....", "x....", "xx...", "xxx..", "xxxx."]),
  ],
)
def test_queue_drops_windows_older_than_its_length(queue_windows, recent):
  assert_plan(plan_of_row([-20], held=9, windows=5, queue_windows=queue_windows), recent=recent)


def test_reset_every_window_makes_every_window_of_text_a_start():
  assert_plan(
    plan_of_row([-6, 4], held=3, windows=5, reset_every_window=True),
    valid=["xxxx", "xx..", "xxxx", "....", "...."],
    starts="xxx..",
    writes="xxx..",
    held=[0, 0, 0, 1, 1],
    pushed=[0, 0, 0, 1, 1],
    carried=".....",
    recent=[".....", ".....", ".....", "..x..", "..x.."],
  )


def test_rows_do_not_see_each_other():
  rows, held = [[-6, 9, 4], [24], [-20], []], [3, 5, 1, 2]
  together = plan(*document_rows(rows, 6 * W, W), held)
  for index, (row, count) in enumerate(zip(rows, held, strict=True)):
    alone = plan_of_row(row, held=count, windows=6)
    for name, leaf in alone._asdict().items():
      np.testing.assert_array_equal(getattr(together, name)[index], leaf, err_msg=name)


def test_windows_come_before_rows():
  windows = compiled(
    jnp.zeros((2, 12), jnp.int32),
    jnp.zeros((2, 12), jnp.int32),
    jnp.zeros(2, jnp.int32),
    window_length=W,
    queue_windows=1,
  )
  shapes = [leaf.shape for leaf in windows]
  assert shapes == [(3, 2, 4), *[(3, 2)] * 6, (3, 2, 3)]


def test_segment_of_broken_windows_is_refused_with_both_sizes():
  with pytest.raises(
    ValueError,
    match="a segment of 10 tokens is not a whole number of windows: make max_target_length a "
    "multiple of melodi_window_length=4",
  ):
    plan(np.zeros((1, 10)), np.zeros((1, 10)), [0])


def test_select_rows_takes_whole_rows_of_every_leaf():
  on = {"a": jnp.ones((3, 2, 2)), "b": jnp.ones(3, jnp.int32)}
  off = {"a": jnp.full((3, 2, 2), 5.0), "b": jnp.full(3, 5, jnp.int32)}
  chosen = select_rows(jnp.array([True, False, True]), on, off)
  np.testing.assert_array_equal(chosen["a"], np.broadcast_to([[[1]], [[5]], [[1]]], (3, 2, 2)))
  np.testing.assert_array_equal(chosen["b"], [1, 5, 1])
  assert chosen["b"].dtype == jnp.int32


def test_select_rows_lets_no_nan_through():
  chosen = select_rows(
    jnp.array([True, False]), jnp.array([[1.0], [jnp.nan]]), jnp.array([[jnp.nan], [2.0]])
  )
  np.testing.assert_array_equal(chosen, [[1.0], [2.0]])


def test_reset_gives_zeros_where_a_document_starts_even_for_nan():
  memory = {"z": jnp.array([[1.0, jnp.nan], [3.0, 4.0]]), "count": jnp.array([3, 5])}
  after = reset(jnp.array([True, False]), memory)
  np.testing.assert_array_equal(after["z"], [[0.0, 0.0], [3.0, 4.0]])
  np.testing.assert_array_equal(after["count"], [0, 5])
