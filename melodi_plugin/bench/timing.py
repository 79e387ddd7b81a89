"""What work takes: seconds by the clock and of all cores; and how fast this machine multiplies."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

_COUNT = 4  # products of one measurement
_SMALLEST, _LARGEST = 512, 8192
_LONG = 0.05  # seconds of a measurement in which starting it no longer counts


class Seconds(NamedTuple):
  """Of some work.

  Attributes:
    clock: that have gone by.
    cpu: of all cores, for this process: what a clock says of a shared machine is noise.
  """

  clock: float
  cpu: float


class Watch:
  """Takes the time of work.

  Attributes:
    taken: of every piece, in their order.
  """

  def __init__(self):
    self.taken: list[Seconds] = []

  @contextlib.contextmanager
  def piece(self) -> Iterator[None]:
    """One more piece of work."""
    cpu, clock = time.process_time(), time.perf_counter()
    yield
    self.taken.append(Seconds(time.perf_counter() - clock, time.process_time() - cpu))


def medians(taken: Sequence[Seconds]) -> Seconds:
  """Of both kinds, each by itself."""
  return Seconds(*(float(median) for median in np.median(np.array(taken), axis=0)))


def compared(taken: Sequence[Seconds]) -> np.ndarray:
  """By which two programs are compared: seconds of all cores; on an accelerator, by the clock.

  Returns:
    One number per piece.
  """
  return np.array(taken)[:, int(jax.default_backend() == "cpu")]


def devices_compared() -> int:
  """Of how many devices the seconds of `compared` are: of a CPU's all, as they share its cores."""
  return jax.device_count() if jax.default_backend() == "cpu" else 1


class Products(NamedTuple):
  """Square matrix products, as large as this machine needs for its full rate.

  Attributes:
    run: does them.
    operations: of one run.
    size: of the matrices.
  """

  run: Callable[[], Any]
  operations: float
  size: int


def products(dtype: Any) -> Products:
  """The smallest that take a while; compiled."""
  size = _SMALLEST
  while True:
    found, watch = _products(size, dtype), Watch()
    found.run()  # warms up
    with watch.piece():
      found.run()
    if watch.taken[0].clock >= _LONG or size == _LARGEST:
      return found
    size *= 2


def _products(size: int, dtype: Any) -> Products:
  # Numbers stay as large as they are from product to product.
  matrix = jax.random.normal(jax.random.key(0), (size, size), dtype) / math.sqrt(size)
  several = jax.jit(lambda a: jax.lax.fori_loop(0, _COUNT, lambda _, b: b @ a, a))
  compiled = several.lower(matrix).compile()
  return Products(lambda: jax.block_until_ready(compiled(matrix)), 2.0 * _COUNT * size**3, size)
