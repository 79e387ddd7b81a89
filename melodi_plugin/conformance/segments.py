"""What must hold for the documents of one segment, and wherever segments are cut."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.conformance.stacks import (
  BATCH,
  WINDOWS,
  Batch,
  Subject,
  assert_close,
  in_float64,
)
from melodi_plugin.core.memory import Memory
from melodi_plugin.systems.table import empty_memory


def _rows(subject: Subject) -> tuple[list[list[int]], list[list[int]]]:
  """Two segments.  Row 0: carried on, a document; two short ones.  Row 1: one long document."""
  w = subject.config.window_length
  return [[-w, 2 * w - 1], [-(w - 1), 2 * w]], [[w - 1, w], [-WINDOWS * w]]


@in_float64
def schedules_agree(subject: Subject) -> None:
  """Both orders give the same, gradients included; so do layers that are not scanned."""
  batch, memory = subject.batch(_rows(subject)[0]), subject.memory()
  expected = subject.read(batch, memory)
  for schedule in subject.schedules[1:]:
    assert_close(subject.read(batch, memory, schedule), expected)
  assert_close(subject.read_forwards(batch, memory, scan_layers=False), expected[:2])


@in_float64
def equals_naive(subject: Subject) -> None:
  """Two segments read in loops by `read_window` give the same, gradients of the first included."""
  first, second = (subject.batch(rows, seed) for seed, rows in enumerate(_rows(subject)))
  result = subject.read(first, subject.memory())
  assert_close(result, subject.read_naively(first, subject.memory()))
  expected = subject.read_naively_forwards(second, result.memory)
  assert_close(subject.read_forwards(second, result.memory), expected)


@in_float64
def packed_equals_alone(subject: Subject) -> None:
  """Documents that share a row give what each gives alone, gradients included."""
  packed, memory, places = _packed(subject)
  batch = subject.batch([packed, []])._replace(share=0.0)
  alone = subject.batch([[packed[0]], [packed[1]]])._replace(share=0.0)
  x, weights = np.array(alone.x), np.zeros(alone.x.shape)
  for row, (first, length) in enumerate(places):
    x[row, :length] = batch.x[0, first : first + length]
    weights[row, :length] = batch.weights[0, first : first + length]
  together = subject.read(batch, memory)
  own = subject.read(alone._replace(x=jnp.asarray(x), weights=jnp.asarray(weights)), memory)
  assert_close(together.gradients[0], own.gradients[0])
  for row, (first, length) in enumerate(places):
    pairs = (together.y, own.y), (together.gradients[1], own.gradients[1])
    for leaf, other in pairs:
      assert_close(leaf[0, first : first + length], other[row, :length])
  assert_close(_row(together.memory, 0), _row(own.memory, 1))


@in_float64
def gradients_stay_in_their_document(subject: Subject) -> None:
  """The gradient of a document is exactly 0 at tokens and memory of another."""
  packed, memory, places = _packed(subject)
  batch = subject.batch([packed, [-subject.segment]])
  for document, (first, length) in enumerate(places):
    own = _tokens(batch, first, length)
    weights = jnp.where(own[..., None], batch.weights, 0)
    read = subject.read(batch._replace(weights=weights, share=0.0), memory)
    _, x, _, *memories = read.gradients
    assert (np.abs(x[own]).max(-1) > 0).all()
    assert not np.asarray(x)[~own].any()
    for leaf in jax.tree.leaves(memories):
      assert not np.asarray(leaf)[:, 1:].any()
      assert not (document and np.asarray(leaf).any())


@in_float64
def gradients_reach_memory(subject: Subject) -> None:
  """A document that goes on learns through what is remembered of it, or memory would be idle."""
  memory = subject.memory()
  batch = subject.batch([[-subject.segment], [-subject.segment]])._replace(share=0.0)
  *_, short, long = subject.read(batch, memory).gradients
  leaves = jax.tree.leaves((short, long))
  assert not leaves or any(np.asarray(leaf).any() for leaf in leaves)


@in_float64
def what_is_not_finite_stays_in_its_document(subject: Subject) -> None:
  """A token that is not a number reaches no other document, and no memory to come."""
  packed, memory, (place, _) = _packed(subject)
  batch = subject.batch([packed, [-subject.segment]])
  good, own = subject.read(batch, memory), _tokens(batch, *place)
  bad = subject.read(batch._replace(x=batch.x.at[0, place[0]].set(jnp.nan)), memory)
  assert not np.isfinite(np.asarray(bad.y)[own]).all()
  np.testing.assert_array_equal(np.asarray(bad.y)[~own], np.asarray(good.y)[~own])
  assert_close(bad.memory, good.memory, 0.0, 0.0)


@in_float64
def documents_begin_without_memory(subject: Subject) -> None:
  """A document that starts reads and leaves the same, whatever its row remembered before."""
  w = subject.config.window_length
  batch = subject.batch([[2 * w - 1, w], [subject.segment]])
  empty = empty_memory(subject.config, BATCH, jnp.float64)
  expected = subject.read(batch, empty)
  bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), (empty.short, empty.long))
  full = subject.memory()
  for memory in (full, Memory(bad[0], bad[1], full.windows)):
    result = subject.read(batch, memory)
    assert_close((result.y, result.memory), (expected.y, expected.memory), 0.0, 0.0)


@in_float64
def segments_can_be_cut_anywhere(subject: Subject) -> None:
  """A segment of three windows is three segments of one."""
  w = subject.config.window_length
  batch, memory = subject.batch(_rows(subject)[0]), subject.memory()
  expected = subject.read(batch, memory)
  own, ys = memory, []
  for first in range(0, subject.segment, w):
    cut = [leaf[:, first : first + w] for leaf in batch[:4]]
    part = batch._replace(x=cut[0], weights=cut[1], positions=cut[2], ids=cut[3])
    y, own = subject.read_forwards(part, own)
    ys.append(y)
  assert_close((jnp.concatenate(ys, axis=1), own), (expected.y, expected.memory))


@in_float64
def padding_leaves_no_trace(subject: Subject) -> None:
  """What stands in padding changes nothing; a row of padding keeps its memory."""
  w = subject.config.window_length
  batch, memory = subject.batch([[-(w - 1), w - 1], []]), subject.memory()
  expected, padding = subject.read(batch, memory), batch.ids == 0
  x = jnp.where(padding[..., None], 1e3, batch.x)
  result = subject.read(batch._replace(x=x), memory)
  assert_close(result, expected)
  assert not np.asarray(result.gradients[1])[padding].any()
  assert_close(_row(result.memory, 1), _row(memory, 1), 0.0, 0.0)


def _packed(subject: Subject) -> tuple[list[int], Memory, list[tuple[int, int]]]:
  """Two documents of one row, a memory of the first, and where both lie: first token, length."""
  w = subject.config.window_length
  return [-w, 2 * w - 1], subject.memory(), [(0, w), (w, 2 * w - 1)]


def _tokens(batch: Batch, first: int, length: int) -> np.ndarray:
  """Marks some tokens of row 0."""
  marked = np.zeros(batch.ids.shape, bool)
  marked[0, first : first + length] = True
  return marked


def _row(memory: Memory, row: int) -> Any:
  """What one row remembers."""
  short, long = jax.tree.map(lambda leaf: leaf[:, row], (memory.short, memory.long))
  return short, long, memory.windows[row]
