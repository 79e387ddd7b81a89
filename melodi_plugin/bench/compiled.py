"""What a compiled training step costs on every chip: memory, products, traffic, largest arrays."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.bench.hlo import Array, Executed, executed

_KINDS = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)
# Results of these are other arrays under another name, or not in memory for long.
_NAMES = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast"}
_NAMES |= {"opt-barrier", "while", "conditional", "call"}
_PER_DTYPE = 3  # arrays that are named of every type of element


class Collective(NamedTuple):
  """All collectives of one kind in loops of the same turns.

  Attributes:
    kind: as XLA names it.
    loops: turns of the loops around them, the outermost first; () outside of loops.
    count: how often they are executed in a step.
    bytes: what they are given, times `count`; of all-gathers, what they give.
  """

  kind: str
  loops: tuple[int, ...]
  count: int
  bytes: float


class Buffer(NamedTuple):
  """Arrays of one shape that are written to memory.

  Attributes:
    shape: as XLA writes it.
    bytes: of one array, without the padding of its layout.
    count: operations of the program that write one.
    source: what one of them was in the traced program.
  """

  shape: str
  bytes: float
  count: int
  source: str


class Costs(NamedTuple):
  """Of one chip in one step; bytes, and operations.

  Attributes:
    arguments: parameters, optimizer, memory, batch.
    temporaries: at their peak.
    products: operations of matrix products.
    collectives: by kind and loops.
    buffers: the largest arrays of every type of element, the largest first.
    seconds: of compilation, tracing included.
  """

  arguments: int
  temporaries: int
  products: int
  collectives: list[Collective]
  buffers: list[Buffer]
  seconds: float

  def as_json(self) -> dict[str, Any]:
    """All of it by name."""
    lists = ("collectives", "buffers")
    return self._asdict() | {name: [own._asdict() for own in getattr(self, name)] for name in lists}


def costs(compiled: Any, seconds: float) -> Costs:
  """Reads a `jax.stages.Compiled`."""
  memory, operations = compiled.memory_analysis(), list(executed(compiled.as_text()))
  return Costs(
    memory.argument_size_in_bytes,
    memory.temp_size_in_bytes,
    sum(own.times * products(own) for own in operations),
    collectives(operations),
    buffers(operations),
    seconds,
  )


def collectives(operations: Sequence[Executed]) -> list[Collective]:
  """The traffic of a program, by kind and loops."""
  found: dict[tuple[str, tuple[int, ...]], list[float]] = {}
  seen = set()
  for own in operations:
    kind = own.operation.opcode.removesuffix("-start")
    if kind not in _KINDS:
      continue
    # XLA spreads one collective over several fusions, which share chain and channel.
    numbers = tuple(map(own.operation.number, ("channel_id", "chain_id")))
    if None not in numbers:
      if (own.path, *numbers) in seen:
        continue
      seen.add((own.path, *numbers))
    sums = found.setdefault((kind, own.loops), [0, 0.0])
    sums[0] += own.times
    sums[1] += own.times * _moved(kind, own)
  named = (Collective(*key, int(count), size) for key, (count, size) in found.items())
  return sorted(named, key=lambda own: (_KINDS.index(own.kind), own.loops))


def _moved(kind: str, own: Executed) -> float:
  given = sum(array.bytes for array in own.operands)
  if kind != "all-gather":
    return given
  whole = sum(array.bytes for array in own.operation.results)
  return whole - given if own.operation.opcode.endswith("-start") else whole  # of start: both


def buffers(operations: Sequence[Executed]) -> list[Buffer]:
  """The largest arrays that are written, of every type of element."""
  written: dict[Array, list[Executed]] = {}
  for own in operations:
    opcode = own.operation.opcode
    if own.fused or opcode in _NAMES or opcode.endswith("-done"):
      continue
    for array in set(own.operation.results):
      written.setdefault(array, []).append(own)
  largest, named = [], dict[str, int]()
  for array, writers in sorted(written.items(), key=lambda item: -item[0].bytes):
    named[array.dtype] = named.get(array.dtype, 0) + 1
    if named[array.dtype] <= _PER_DTYPE and array.shape:
      sources = {own.operation.name: own.operation.source for own in writers}
      shape = f"{array.dtype}[{','.join(map(str, array.shape))}]"
      source = next(filter(None, sources.values()), "")
      largest.append(Buffer(shape, array.bytes, len(sources), source))
  return largest


# -- Matrix products -------------------------------------------------------------------------------


def products(own: Executed) -> int:
  """Operations of one matrix product or convolution (which TPUs make of them); else 0."""
  attributes, operands = own.operation.attributes, own.operands
  if own.operation.opcode == "dot":
    contracted = _list(attributes, r"lhs_contracting_dims=\{([\d,]*)\}")
    inner = [operands[0].shape[axis] for axis in contracted]
    return 2 * own.operation.results[0].size * int(np.prod(inner, dtype=np.int64))
  if own.operation.opcode == "convolution":
    given, kernel = operands
    return _convolution(attributes, given, kernel, own.operation.results[0])
  return 0


def _convolution(attributes: str, given: Array, kernel: Array, result: Array) -> int:
  """Products of what is given, without padding and holes, with a kernel: 2 for each."""
  found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
  assert found, attributes
  of_given, of_kernel, of_result = found.groups()
  count = kernel.shape[of_kernel.index("i")] * result.size
  for axis in filter(str.isdigit, of_result):
    place = int(axis)
    turns = result.shape[of_result.index(axis)]
    inputs, taps = given.shape[of_given.index(axis)], kernel.shape[of_kernel.index(axis)]
    stride, holes, spread = (
      _window(attributes, name, place, 1) for name in ("stride", "lhs_dilate", "rhs_dilate")
    )
    before = _window(attributes, "pad", place, 0)
    at = np.arange(turns)[:, None] * stride + np.arange(taps)[None] * spread - before
    hit = (at >= 0) & (at % holes == 0) & (at // holes < inputs)
    count = count // turns * int(hit.sum())
  return 2 * count


def _window(attributes: str, name: str, place: int, default: int) -> int:
  """One number of a convolution's window, as in `window={size=2x1 pad=1_1x0_0}`."""
  found = re.search(rf"window=\{{[^}}]*\b{name}=([\dx_\-]+)", attributes)
  return int(found[1].split("x")[place].split("_")[0]) if found else default


def _list(attributes: str, pattern: str) -> list[int]:
  found = re.search(pattern, attributes)
  return [int(number) for number in found[1].split(",") if number] if found else []
