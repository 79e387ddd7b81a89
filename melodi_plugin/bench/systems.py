"""Systems of equal sizes side by side: MaxText's training step, and whole documents read.

It is the step of MaxText's trainer that is timed, of all systems: the stock decoder exists only
there, and embedding, head, loss, optimizer and rematerialisation are then the same for all.  One
after another takes a step, again and again, so that what else the machine does hits all alike.

Parameters are random and texts are noise: neither changes how long anything takes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from melodi_plugin.bench.timing import Seconds, Watch, compared, devices_compared, products
from melodi_plugin.config.systems import is_melodi
from melodi_plugin.cost.sizes import Sizes
from melodi_plugin.maxtext.loading import with_keys
from melodi_plugin.maxtext.sizes import sizes
from melodi_plugin.maxtext.steps import Reader, TrainingStep

Advance = Callable[[int], None]  # told how many tokens were done
LINEAR = 0.1  # a token at the end of a long document may take so much more than one at its start


class Trained(NamedTuple):
  """What training steps of a system take, on one device where not said otherwise.

  Attributes:
    parameters: all of them.
    operations: of the matrix products of a step, in closed form; nothing that is computed again.
    tokens: of a step, on all devices.
    temporaries: bytes, by the compiler.
    compiling: trace and compile.
    steps: one per round.
  """

  parameters: int
  operations: float
  tokens: int
  temporaries: int
  compiling: Seconds
  steps: list[Seconds]

  @property
  def rates(self) -> np.ndarray:
    """Tokens per second by the clock, one per round."""
    return self.tokens / np.array(self.steps)[:, 0]

  def over(self, other: "Trained") -> tuple[float, float]:
    """Seconds of a step, and operations, in those of another system of the same rounds."""
    seconds = compared(self.steps) / compared(other.steps)
    return float(np.median(seconds)), self.operations / other.operations

  def as_json(self) -> dict[str, Any]:
    """All of it, by name."""
    return self._asdict() | {"tokens_per_second": self.rates.tolist()}

  def share(self, limit: "Limit") -> float:
    """Of the machine's rate of matrix products."""
    operations = self.operations * devices_compared()
    return operations / float(np.median(compared(self.steps))) / limit.rate


class Limit(NamedTuple):
  """How fast one device multiplies square matrices, measured in the same rounds."""

  size: int
  operations: float  # of a piece
  taken: list[Seconds]

  @property
  def rate(self) -> float:
    """Operations per second."""
    return self.operations / float(np.median(compared(self.taken)))


class _Training:
  """A system that trains on one batch, again and again."""

  def __init__(self, config: Any):
    self._step, self.watch = TrainingStep(config), Watch()
    batch = self._step.loader.load_next_batch()
    # In the middle of documents, so that memory is carried, as nearly all steps do.
    places = batch["inputs_position"] + config.max_target_length
    self._batch = batch | {"inputs_position": places}
    self._sizes: Sizes = sizes(config)
    with self.watch.piece():
      stats: Any = self._step.compile(self._batch).memory_analysis()
    self._temporaries = stats.temp_size_in_bytes
    self.tokens = batch["inputs"].size

  def step(self) -> None:
    """One step, to its end."""
    with self.watch.piece():
      metrics = self._step.train_on(self._batch)
      jax.block_until_ready((metrics, self._step.state))

  def found(self) -> Trained:
    """What was measured; the first step has warmed up."""
    compiling, _, *steps = self.watch.taken
    own, operations = self._sizes, self._sizes.training_flops_per_step or 0.0
    return Trained(own.parameters, operations, self.tokens, self._temporaries, compiling, steps)


def train(
  configs: Mapping[str, Any], repeats: int, advance: Advance
) -> tuple[dict[str, Trained], Limit]:
  """Training steps of all systems, by name, in turn; and the machine's limit."""
  systems = {name: _Training(config) for name, config in configs.items()}
  limit, watch = products(next(iter(configs.values())).dtype), Watch()
  for _ in range(repeats + 1):
    with watch.piece():
      limit.run()
    for own in systems.values():
      own.step()
      advance(own.tokens)
  found = {name: own.found() for name, own in systems.items()}
  return found, Limit(limit.size, limit.operations, watch.taken[1:])


# -- Documents -------------------------------------------------------------------------------------


class Read(NamedTuple):
  """What reading one document on every device takes.

  Attributes:
    seconds: up to so many tokens, one entry per round.
  """

  seconds: dict[int, list[Seconds]]

  @property
  def growth(self) -> float | None:
    """Seconds of a token at the end of the longest document in those of one at its start."""
    lengths = list(self.seconds)
    if len(lengths) < 2:
      return None
    before, last = lengths[-2:]
    end = (compared(self.seconds[last]) - compared(self.seconds[before])) / (last - before)
    return float(np.median(end / (compared(self.seconds[lengths[0]]) / lengths[0])))


class _Reading:
  """A system with memory, which reads on where it has stopped."""

  def __init__(self, config: Any):
    self._reader, self._vocabulary = Reader.fresh(config), config.vocab_size
    self.read({self._reader.segment: []}, lambda _: None)  # warms up

  def read(self, lengths: Mapping[int, list[Seconds]], advance: Advance) -> None:
    """Reads a document, and notes what it has taken up to each of `lengths`, which ascend."""
    reader, watch, read = self._reader, Watch(), 0
    memory = reader.empty()
    for length, taken in lengths.items():
      advance(max(length - read, 0))
      with watch.piece():
        while read < length:
          scores, memory = reader.read(memory, _batch(reader, read, self._vocabulary))
          read += reader.segment
        jax.block_until_ready((scores, memory))
      taken.append(Seconds(*np.sum(watch.taken, axis=0).tolist()))


class _ReadingWhole:
  """A stock decoder, which sees all of a document at once: one model per length."""

  def __init__(self, config: Any, lengths: Sequence[int]):
    whole = {length: with_keys(config, max_target_length=length) for length in lengths}
    self._readings = {length: _Reading(own) for length, own in whole.items()}

  def read(self, lengths: Mapping[int, list[Seconds]], advance: Advance) -> None:
    """Reads one document of each length."""
    for length, taken in lengths.items():
      self._readings[length].read({length: taken}, advance)


def _batch(reader: Reader, first: int, vocabulary: int) -> dict[str, np.ndarray]:
  """The next tokens of a document on every device."""
  shape = reader.rows, reader.segment
  text = np.random.default_rng(first).integers(0, vocabulary, shape, np.int32)
  places = np.broadcast_to(first + np.arange(reader.segment, dtype=np.int32), shape)
  ones = np.ones(shape, np.int32)
  return {
    "inputs": text,
    "inputs_position": places,
    "inputs_segmentation": ones,
    "targets": text,
    "targets_segmentation": ones,
  }


def read(
  configs: Mapping[str, Any], lengths: Sequence[int], whole: int, repeats: int, advance: Advance
) -> dict[str, Read]:
  """Documents read by all systems, by name, in turn.

  Args:
    configs: MaxText's.
    lengths: tokens of the documents.
    whole: the longest that a stock decoder reads, whose work grows with the square.
    repeats: how often.
    advance: told how many tokens were done.
  """
  own = _lengths(configs, lengths, whole)
  systems: dict[str, Any] = {
    name: _Reading(config) if is_melodi(config) else _ReadingWhole(config, own[name])
    for name, config in configs.items()
  }
  found = {name: Read({length: [] for length in own[name]}) for name in configs}
  for _ in range(repeats):
    for name, system in systems.items():
      system.read(found[name].seconds, advance)
  return found


def tokens_to_read(configs: Mapping[str, Any], lengths: Sequence[int], whole: int) -> int:
  """Tokens of which `read` tells with every repetition."""
  own = _lengths(configs, lengths, whole)
  return sum(
    max(own[name]) if is_melodi(config) else sum(own[name]) for name, config in configs.items()
  )


def _lengths(
  configs: Mapping[str, Any], lengths: Sequence[int], whole: int
) -> dict[str, list[int]]:
  """What every system reads, ascending."""
  return {
    name: sorted({length for length in lengths if is_melodi(config) or length <= whole})
    for name, config in configs.items()
  }
