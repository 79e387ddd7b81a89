"""Rows read by the verbs of a stack, as a server would: what must hold for every system.

A frame holds t places for every row.  Which of them hold tokens is up to a pace: a row may be idle,
read a part of its frame, or be full and wait; rows are at different places of their windows.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.conformance.stacks import (
  Subject,
  assert_close,
  in_float64,
  jit,
  read_rows,
  stack_layers,
)
from melodi_plugin.core import decoding
from melodi_plugin.core.memory import Memory
from melodi_plugin.core.stack import Section

Pace = Callable[[int, int], int]  # (tick, row) -> how many tokens the row may read


def one_by_one(tick: int, row: int) -> int:
  """A token at a time; row r begins r ticks later, and rests now and then."""
  return int(tick >= row and (tick + row) % 4 > 0)


def in_windows(tick: int, row: int) -> int:
  """As many tokens as the window has left."""
  return 10**9


def unevenly(tick: int, row: int) -> int:
  """Pieces of other sizes in every row and tick, and none now and then."""
  return (2, 0, 1, 3, 2, 5)[(tick + 2 * row) % 6]


class Stack(NamedTuple):
  """A stack whose parameters are arguments, so that its verbs can be compiled once."""

  config: MelodiConfig
  sections_of: Callable[[Any], list[Section]]  # of parameters
  params: Any
  summary: Any


class Reader:
  """Compiled verbs of a stack."""

  def __init__(self, stack: Stack):
    self.stack = stack

    def compiled(verb: Callable) -> Callable:
      call = jit(lambda params, *arguments: verb(stack.sections_of(params), *arguments))
      return functools.partial(call, stack.params)

    self.begin, self.context = compiled(decoding.begin), compiled(decoding.context)
    self.restart, self.close = compiled(decoding.restart), compiled(decoding.close)

  def read(self, x, memory: Memory, positions, ids, size: int, pace: Pace) -> tuple[Any, Memory]:
    """All rows to their ends, in frames of `size`; outputs at padding are zeros."""
    window, text, (batch, length) = self.stack.config.window_length, ids > 0, ids.shape
    every = np.arange(batch)
    rows, y, at = self.begin(memory), np.zeros(x.shape), np.zeros(batch, int)
    full, fresh = np.zeros(batch, bool), np.zeros(batch, bool)  # fresh: has read of this window
    for tick in range(20 * length):
      for row in every[~full]:  # a window of padding is not read at all
        while at[row] < length and not text[row, at[row] : _end(at[row], window)].any():
          at[row] = _end(at[row], window)
      if (at >= length).all() and not full.any():
        break
      if full.any() and tick % 2:  # full rows wait for a tick, next to others that read
        rows = self.close(rows, self.stack.summary, jnp.asarray(full))
        full[:] = False
        continue
      first = np.minimum(at, length - 1)
      starts = ~full & (at < length) & (at % window == 0) & (positions[every, first] == 0)
      if (starts & ~fresh).any():
        rows = self.restart(rows, jnp.asarray(starts & ~fresh))
      fresh = starts
      left = np.where(full, 0, [text[r, a : _end(a, window)].sum() for r, a in enumerate(at)])
      count = np.minimum(left, np.minimum([pace(tick, r) for r in range(batch)], size))
      index = every[:, None], np.minimum(at[:, None] + np.arange(size), length - 1)
      valid = np.arange(size) < count[:, None]
      out, rows = self.context(rows, x[index], jnp.asarray(valid))
      for row in every:
        y[row, at[row] : at[row] + count[row]] = out[row, : count[row]]
      at += count
      closes = (count > 0) & (count == left)
      full, at = full | closes, np.where(closes, [_end(a - 1, window) for a in at], at)
      fresh &= count == 0
    after = decoding.memory_of(self.stack.sections_of(self.stack.params), rows, memory)
    return y, after


def _end(at: Any, window: int) -> Any:
  """The place behind the window of a token."""
  return at // window * window + window


def assert_verbs_equal_schedule(
  stack: Stack, x: Any, memory: Memory, positions: Any, ids: Any, *, frame: int = 1
) -> None:
  """Outputs and final memory, whole windows at once, token by token, and in uneven pieces.

  Token by token the frames hold `frame` places; with W of them, one program reads all paces.
  """
  schedule = "windows" if any(s.cell.long.tells for s in _sections(stack)) else "layers"

  def segment(params, x, memory):
    sections = stack.sections_of(params)
    return read_rows(
      sections, stack.config, x, stack.summary, memory, positions, ids, schedule=schedule
    )

  expected, reader = jit(segment)(stack.params, x, memory), Reader(stack)
  window = stack.config.window_length
  paces: Sequence[tuple[int, Pace]] = (
    (frame, one_by_one),
    (window, in_windows),
    (window, unevenly),
  )
  for size, pace in paces:
    result = reader.read(x, memory, positions, ids, size, pace)
    assert_close(result, expected, 1e-9, 1e-9)


# Carried on for two windows, then a document of a window and a token, and one that is shorter than
# a window; a document of four windows; one, padding, another one.
LENGTHS = ((-2.0, 1.25, 0.5), (4.0,), (0.75, 2.5))


@in_float64
def verbs_equal_schedule(subject: Subject) -> None:
  """Rows read as a server would, out of step and idle now and then, are read as a segment is."""
  window = subject.config.window_length
  lengths = [[round(windows * window) for windows in row] for row in LENGTHS]
  batch, memory = subject.batch(lengths, windows=5), subject.memory(len(lengths))
  sections = functools.partial(stack_layers, config=subject.config, dtype=jnp.float64)
  stack = Stack(subject.config, sections, subject.layers, subject.summary)
  assert_verbs_equal_schedule(stack, batch.x, memory, batch.positions, batch.ids)


def _sections(stack: Stack) -> list[Section]:
  return stack.sections_of(stack.params)
