"""The compiled functions of an engine: every shape is fixed when it starts.

All are compiled ahead of time.  So a wrong shape or type is an error, and never a second compile in
the middle of an answer; one program reads prompts of every length.

  step     one token of every active row, and the draw of the next one
  read     up to C tokens of up to R rows, through as many windows as they fill
  score    the same, with the log probability of every token's target
  close    the full windows of a bucket of rows
  insert, extract, copy    a row into a slot, out of it, and from slot to slot

Letters beside those of `sampling`: R  rows that one call reads    C  tokens that it reads of each
"""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.core import decoding
from melodi_plugin.core.array_typing import Array, Bool, Float, Int
from melodi_plugin.core.decoding import OpenRows
from melodi_plugin.maxtext.prepared import PreparedModel, Weights
from melodi_plugin.serving.sampling import (
  TOP,
  Sample,
  Sampling,
  count_drawn,
  idle_sampling,
  insert_sampling,
  sample,
  sampling_row,
)
from melodi_plugin.serving.sampling_settings import SamplingSettings

READ_TOKENS = 512  # at least so many per call, where windows are shorter
READ_ROWS = (1, 4)  # sizes of buckets, as far as there are slots
CLOSE_ROWS = (1, 8)
_HEAD_TOKENS = 128  # whose logits exist at once


class Scores(NamedTuple):
  """What the model says of the tokens that follow."""

  logprobs: Float[Array, "R C"]  # of the targets
  hits: Bool[Array, "R C"]  # the target has the largest logit
  top_ids: Int[Array, "R C top"]
  top_logprobs: Float[Array, "R C top"]


class Programs:
  """Compiled functions for N slots; see the head of this file.

  Attributes:
    read_tokens: C.
    read_rows, close_rows: how many rows a call may have; the last is the most (R).
    row: shapes and types of one row (N = 1).
    compiles: how many programs there are.
  """

  def __init__(self, model: PreparedModel, slots: int, *, scores: bool = False):
    self.model, self.slots = model, slots
    window = model.melodi.window_length
    self.read_tokens = window * max(1, READ_TOKENS // window)
    self.read_rows, self.close_rows = (_sizes(most, slots) for most in (READ_ROWS, CLOSE_ROWS))
    self.vocabulary = int(model.config.vocab_size)
    self._place = jax.sharding.NamedSharding(model.mesh, jax.sharding.PartitionSpec())
    self.row = jax.eval_shape(lambda weights: model.empty_rows(weights, 1), model.weights)
    self._compiled = self._compile(scores)
    self.compiles = len(self._compiled)

  # -- The calls -----------------------------------------------------------------------------------

  def empty(self) -> tuple[OpenRows, Sampling]:
    """N rows that have read nothing, and how they draw: not at all."""
    rows = self._call("empty")
    return rows, jax.device_put(idle_sampling(self.slots, self.vocabulary), self._place)

  def step(
    self, rows: OpenRows, sampling: Sampling, tokens: np.ndarray, active: np.ndarray
  ) -> tuple[OpenRows, Sampling, Sample, Bool[Array, "N"]]:
    """Reads a token of every active row; the last of what it returns is whether logits are finite.

    The open windows of active rows must have room.
    """
    return self._call("step", rows, sampling, np.asarray(tokens, np.int32), active)

  def read(
    self, rows: OpenRows, slots: list[int], texts: list[np.ndarray], fresh: list[bool]
  ) -> OpenRows:
    """Reads up to C tokens in each of up to R slots; fresh ones forget what they held first."""
    size = _bucket(self.read_rows, len(slots))
    return self._call(f"read {size}", rows, *self._padded(size, slots, texts, fresh))

  def score(
    self,
    rows: OpenRows,
    slots: list[int],
    texts: list[np.ndarray],
    fresh: list[bool],
    targets: list[np.ndarray],
  ) -> tuple[OpenRows, Scores]:
    """The same, and what was said of `targets`; entries behind the end of a text mean nothing."""
    size = _bucket(self.read_rows, len(slots))
    wanted = np.zeros((size, self.read_tokens), np.int32)
    for row, own in enumerate(targets):
      wanted[row, : len(own)] = own
    return self._call(f"score {size}", rows, *self._padded(size, slots, texts, fresh), wanted)

  def close(self, rows: OpenRows, slots: list[int]) -> OpenRows:
    """Closes the full windows of up to `close_rows[-1]` slots."""
    size = _bucket(self.close_rows, len(slots))
    return self._call(f"close {size}", rows, self._slots(size, slots))

  def insert(self, rows: OpenRows, slot: int, row: OpenRows) -> OpenRows:
    """Puts a row into a slot."""
    return self._call("insert", rows, self._slots(1, [slot]), row)

  def extract(self, rows: OpenRows, slot: int) -> OpenRows:
    """The row of a slot, on the host."""
    return jax.device_get(self._call("extract", rows, self._slots(1, [slot])))

  def copy(self, rows: OpenRows, slot: int, to: int) -> OpenRows:
    """Puts the row of one slot into another one, too."""
    return self._call("copy", rows, self._slots(1, [slot]), self._slots(1, [to]))

  def sample_with(self, sampling: Sampling, slot: int, settings: SamplingSettings) -> Sampling:
    """Gives a slot settings; it has generated nothing under them."""
    return self._call("settings", sampling, np.int32(slot), sampling_row(settings, self.vocabulary))

  def _call(self, name: str, *arguments: Any) -> Any:
    own = () if name in _WITHOUT_WEIGHTS else (self.model.weights,)
    return self._compiled[name](*own, *arguments)

  def _slots(self, size: int, slots: list[int]) -> np.ndarray:
    """Padded with a slot that does not exist."""
    return np.array(slots + [self.slots] * (size - len(slots)), np.int32)

  def _padded(
    self, size: int, slots: list[int], texts: list[np.ndarray], fresh: list[bool]
  ) -> tuple[np.ndarray, ...]:
    tokens, lengths = np.zeros((size, self.read_tokens), np.int32), np.zeros(size, np.int32)
    for row, text in enumerate(texts):
      if len(text) > self.read_tokens:
        raise ValueError(
          f"a call reads up to {self.read_tokens} tokens of a slot, but {len(text)} were given."
        )
      tokens[row, : len(text)], lengths[row] = text, len(text)
    starts = np.array(fresh + [False] * (size - len(slots)))
    return self._slots(size, slots), tokens, lengths, starts

  # -- Compiling -----------------------------------------------------------------------------------

  def _compile(self, scores: bool) -> dict[str, Any]:
    number = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)  # noqa: E731
    flag = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bool_)  # noqa: E731
    model, slots = self.model, self.slots
    rows = jax.eval_shape(lambda weights: model.empty_rows(weights, slots), model.weights)
    sampling = jax.eval_shape(lambda: idle_sampling(slots, self.vocabulary))
    settings = jax.eval_shape(lambda: idle_sampling(1, self.vocabulary))
    wanted: dict[str, tuple[Callable, tuple, tuple[int, ...]]] = {
      "empty": (lambda weights: model.empty_rows(weights, slots), (), ()),
      "step": (self._step, (rows, sampling, number(slots), flag(slots)), (1, 2)),
      "insert": (decoding.put, (rows, number(1), self.row), (0,)),
      "extract": (decoding.take, (rows, number(1)), ()),
      "copy": (lambda rows, a, b: decoding.put(rows, b, decoding.take(rows, a)),
               (rows, number(1), number(1)), (0,)),
      "settings": (insert_sampling, (sampling, number(), settings), (0,)),
    }  # fmt: skip
    for size in self.read_rows:
      text = (rows, number(size), number(size, self.read_tokens), number(size), flag(size))
      wanted[f"read {size}"] = self._read, text, (1,)
      if scores:
        wanted[f"score {size}"] = self._score, (*text, number(size, self.read_tokens)), (1,)
    for size in self.close_rows:
      wanted[f"close {size}"] = self._close, (rows, number(size)), (1,)

    def compiled(name: str) -> Any:
      function, arguments, donated = wanted[name]
      own = () if name in _WITHOUT_WEIGHTS else (model.weights,)
      with model.on_mesh():
        found = jax.eval_shape(function, *own, *arguments)
        jitted = jax.jit(function, donate_argnums=donated, out_shardings=self._where(found))
        return jitted.lower(*own, *self._placed(arguments)).compile()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      return dict(zip(wanted, pool.map(compiled, wanted), strict=True))

  def _placed(self, arguments: tuple) -> tuple:
    def placed(leaf: jax.ShapeDtypeStruct, where: Any) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree.map(placed, arguments, self._where(arguments))

  def _where(self, tree: Any) -> Any:
    """Rows are dealt to the devices as the model says; all else lies on every one."""
    is_rows = lambda part: isinstance(part, OpenRows)  # noqa: E731

    def of(part: Any) -> Any:
      return self.model.row_shardings(part) if is_rows(part) else self._place

    return jax.tree.map(of, tree, is_leaf=is_rows)

  def _step(self, weights: Weights, rows, sampling, tokens, active):
    model = self.model
    x = model.embed(weights, tokens[:, None])
    y, rows = decoding.context(model.sections(weights), rows, x, active[:, None])
    logits = model.logits(weights, y)[:, 0]
    drawn = sample(logits, sampling)
    return rows, count_drawn(sampling, drawn.tokens, active), drawn, jnp.isfinite(logits).all(1)

  def _close(self, weights: Weights, rows, slots):
    own = decoding.take(rows, slots)
    own = decoding.close(self.model.sections(weights), own, weights.summary, slots < self.slots)
    return decoding.put(rows, slots, own)

  def _read_texts(self, weights: Weights, rows, slots, tokens, lengths, fresh):
    model = self.model
    sections, own = model.sections(weights), decoding.take(rows, slots)
    own = jax.lax.cond(
      fresh.any(), lambda own: decoding.restart(sections, own, fresh), lambda own: own, own
    )
    valid = jnp.arange(tokens.shape[1], dtype=jnp.int32) < lengths[:, None]
    x = model.embed(weights, tokens)
    y, own = decoding.read(sections, own, x, valid, weights.summary)
    return y, decoding.put(rows, slots, own)

  def _read(self, *arguments: Any):
    return self._read_texts(*arguments)[1]

  def _score(self, weights: Weights, rows, slots, tokens, lengths, fresh, targets):
    y, rows = self._read_texts(weights, rows, slots, tokens, lengths, fresh)
    size = min(_HEAD_TOKENS, self.read_tokens)

    def pieces(leaf: Array) -> Array:
      """Some tokens of all rows at a time; the last piece may have fewer real ones."""
      short = -leaf.shape[1] % size
      leaf = jnp.pad(leaf, [(0, 0), (0, short), *[(0, 0)] * (leaf.ndim - 2)])
      return jnp.moveaxis(leaf.reshape(leaf.shape[0], -1, size, *leaf.shape[2:]), 1, 0)

    def score(piece: tuple[Array, Array]) -> Scores:
      y, targets = piece
      logits = self.model.logits(weights, y)
      logprobs = jax.nn.log_softmax(logits)
      top = jax.lax.top_k(logits, min(TOP, self.vocabulary))[1]
      own = jnp.take_along_axis(logprobs, targets[..., None], -1)[..., 0]
      hits = logits.argmax(-1) == targets
      return Scores(own, hits, top, jnp.take_along_axis(logprobs, top, -1))

    def whole(leaf: Array) -> Array:
      joined = jnp.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1, *leaf.shape[3:])
      return joined[:, : self.read_tokens]

    return rows, jax.tree.map(whole, jax.lax.map(score, (pieces(y), pieces(targets))))


_WITHOUT_WEIGHTS = ("insert", "extract", "copy", "settings")


def _sizes(most: tuple[int, ...], slots: int) -> tuple[int, ...]:
  """Sizes of buckets of which there are rows enough."""
  return tuple(size for size in most if size <= slots)


def _bucket(sizes: tuple[int, ...], count: int) -> int:
  """The smallest size that holds so many; ValueError if there is none."""
  if count > sizes[-1]:
    raise ValueError(f"a call has room for {sizes[-1]} slots, but {count} were given.")
  return next(size for size in sizes if size >= count)
