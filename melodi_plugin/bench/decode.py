"""Time, bytes and compiled programs of a token that is written, against the tokens that were read.

A model with memory, in our engine, beside MaxText's stock decoder of the same sizes in MaxText's
engine.  Parameters are random and texts are noise: neither changes how long anything takes.
"""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from melodi_plugin.bench.timing import Watch
from melodi_plugin.maxtext.stock_decoder import StockDecoder
from melodi_plugin.serving.engine import Engine

Advance = Callable[[int], None]  # told how many tokens were done
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Point(NamedTuple):
  """Tokens that are written after so many were read."""

  tokens: int  # that the row has read; for a stock decoder, those that its cache has room for
  median: float  # milliseconds of a token of every slot
  least: float
  p99: float
  cpu: (
    float  # milliseconds of all cores, on average: what a clock says of a shared machine is noise
  )
  state_bytes: int  # of one slot
  compiles: int  # of the whole process so far


class WithMemory(NamedTuple):
  """What a model with memory costs."""

  points: list[Point]
  reading: float  # tokens per second, one row
  close: float | None  # milliseconds that a token takes longer if windows close before it


class Stretch(NamedTuple):
  """A part of a long text."""

  tokens: int  # read so far
  reading: float  # tokens per second in this part
  peak_memory: int  # bytes of this process in main memory, at most, so far
  state_bytes: int
  compiles: int


class Compiles:
  """Counts what XLA compiles while it is entered."""

  def __init__(self):
    self.count = 0

  @contextlib.contextmanager
  def counted(self) -> Iterator["Compiles"]:
    """Counts until the end."""
    jax.monitoring.register_event_duration_secs_listener(self._heard)
    try:
      yield self
    finally:
      jax.monitoring.unregister_event_duration_listener(self._heard)

  def _heard(self, event: str, duration_secs: float, **_: Any) -> None:
    self.count += event == _COMPILED


def _point(watch: Watch, tokens: int, state_bytes: int, compiles: Compiles) -> Point:
  """What a watch has seen of tokens."""
  clock, cpu = 1e3 * np.array(watch.taken).T
  median, least, p99 = map(float, np.quantile(clock, (0.5, 0, 0.99)))
  return Point(tokens, median, least, p99, float(cpu.mean()), state_bytes, compiles.count)


def noise(count: int, vocabulary: int) -> np.ndarray:
  """A text."""
  return np.random.default_rng(0).integers(0, vocabulary, count, np.int32)


def with_memory(
  engine: Engine, tokens: Sequence[int], compiles: Compiles, advance: Advance
) -> WithMemory:
  """Writes two windows in every slot after each of `tokens`, which ascend; closes included.

  Slots are out of phase by equal parts of a window, as far as they have different ones.
  """
  slots, window = range(len(engine.slots)), engine.window
  vocabulary, read, reading = engine.programs.vocabulary, 0, 0.0
  points, closing, others = [], [], []
  for wanted in tokens:
    text = noise(max(wanted - engine.slots[0].tokens, 0), vocabulary)
    began = time.perf_counter()
    engine.read_all({0: text}, advance)
    read, reading = read + len(text), reading + time.perf_counter() - began
    for slot in slots[1:]:
      engine.copy(0, slot)
      engine.read_all({slot: noise(slot * window // len(slots), vocabulary)})
    pending, watch = dict.fromkeys(slots, 0), Watch()
    engine.generate(pending)  # warms up
    for _ in range(2 * window):
      closes = any(own.count == window for own in engine.slots)
      with watch.piece():
        drawn = engine.generate(pending)
      pending = {slot: own.token for slot, own in drawn.items()}
      (closing if closes else others).append(watch.taken[-1].clock)
      advance(1)
    points.append(_point(watch, wanted, engine.row_bytes, compiles))
  close = 1e3 * float(np.median(closing) - np.median(others)) if others else None
  return WithMemory(points, read / reading, close)


def without_memory(decoder: StockDecoder, tokens: int, steps: int, compiles: Compiles) -> Point:
  """Writes so many tokens with a decoder that has room for `tokens`.

  MaxText's attention goes over the whole cache at every token, whatever is in it; so a token takes
  as long as one behind all of them.
  """
  decoder.read(0)  # warms up
  watch = Watch()
  for _ in range(steps):
    with watch.piece():
      decoder.read(0)
      np.asarray(decoder.logits)
  return _point(watch, tokens, decoder.bytes, compiles)


def read_long(
  engine: Engine, tokens: int, parts: int, compiles: Compiles, advance: Advance
) -> list[Stretch]:
  """Reads a text of any length in one slot, and looks at this process after each part."""
  engine.reset()
  found = []
  for part in range(parts):
    text = noise(tokens // parts + (part < tokens % parts), engine.programs.vocabulary)
    began = time.perf_counter()
    engine.read_all({0: text}, advance)
    rate = len(text) / (time.perf_counter() - began)
    read, state = engine.slots[0].tokens, engine.row_bytes
    found.append(Stretch(read, rate, peak_memory(), state, compiles.count))
  return found


def peak_memory() -> int:
  """Bytes of main memory that this process has had at most."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
