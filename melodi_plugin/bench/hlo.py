"""A compiled program, read from its text: every operation, and how often it is executed.

XLA's own cost analysis counts the body of a loop once.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_BYTES = {"pred": 1.0, "s4": 0.5, "u4": 0.5, "bf16": 2.0, "c64": 8.0, "c128": 16.0}
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+(?:e\w+)?)\[([\d,]*)\]")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) .*-> .*\{$")
_OPERATION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (.*)")
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(\S+?),)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
# Whose bodies are part of the program; what a reduction or a sort applies is not counted.
_BODIES = ("fusion", "call", "async-start", "custom-call")


class Array(NamedTuple):
  """The type of a result, without its layout."""

  dtype: str  # as XLA writes it: f32, bf16, pred
  shape: tuple[int, ...]

  @property
  def size(self) -> int:
    """Its elements."""
    return math.prod(self.shape)

  @property
  def bytes(self) -> float:
    """Without the padding of a layout."""
    if self.dtype in _BYTES:
      return self.size * _BYTES[self.dtype]
    bits = re.match(r"[a-z]+(\d+)", self.dtype)
    return self.size * int(bits[1]) / 8 if bits else 0.0


class Operation(NamedTuple):
  """One operation of a computation."""

  name: str
  opcode: str
  results: tuple[Array, ...]  # more than one of a tuple
  operands: tuple[str, ...]  # their names, in the same computation
  attributes: str  # all that stands behind them

  @property
  def source(self) -> str:
    """What it was in the traced program."""
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""

  def number(self, attribute: str) -> int | None:
    """An attribute that is a number."""
    found = re.search(rf'\b{attribute}="?(\d+)', self.attributes)
    return int(found[1]) if found else None


Computation = dict[str, Operation]


class Executed(NamedTuple):
  """An operation where it is executed.

  Attributes:
    loops: turns of the loops around it, the outermost first.
    fused: whether its result is never written, being inside of a fusion.
    within: its computation, in which its operands are found.
    path: the names of the loops around it.
  """

  operation: Operation
  loops: tuple[int, ...]
  fused: bool
  within: Computation
  path: tuple[str, ...]

  @property
  def times(self) -> int:
    """How often it is executed."""
    return math.prod(self.loops)

  @property
  def operands(self) -> list[Array]:
    """The types of its operands."""
    found = (self.within[name] for name in self.operation.operands if name in self.within)
    return [array for operation in found for array in operation.results]


def executed(text: str) -> Iterator[Executed]:
  """All operations of a program, which `jax.stages.Compiled.as_text` has written.

  A loop whose turns are not known counts once; of branches all are counted.
  """
  computations, entry = _computations(text)

  def walk(name: str, loops: tuple[int, ...], fused: bool, path: tuple[str, ...]):
    within = computations.get(name, {})
    for operation in within.values():
      yield Executed(operation, loops, fused, within, path)
      attributes, opcode = operation.attributes, operation.opcode
      if opcode == "while":
        condition, body = (_named(attributes, part) for part in ("condition", "body"))
        known = _TRIPS.search(attributes)
        turns = int(known[1]) if known else _turns(computations, condition, body)
        yield from walk(body, (*loops, turns), fused, (*path, operation.name))
      elif opcode == "conditional":
        branches = ",".join(map("".join, _BRANCHES.findall(attributes)))
        for branch in re.findall(r"[\w.\-]+", branches):
          yield from walk(branch, loops, fused, path)
      elif opcode in _BODIES:
        inside = fused or opcode == "fusion"
        for called in _CALLED.findall(attributes):
          yield from walk(called, loops, inside, path)

  return walk(entry, (), False, ())


def _named(attributes: str, part: str) -> str:
  found = re.search(rf"\b{part}=%?([\w.\-]+)", attributes)
  return found[1] if found else ""


def _turns(computations: dict[str, Computation], condition: str, body: str) -> int:
  """The turns of a loop that counts from 0; 1 if it does not."""
  limit = _limit(computations, condition)
  count = [own for own in computations[condition].values() if own.opcode == "get-tuple-element"]
  if len(count) != 1:
    return limit
  *_, result = computations[body].values()
  place = count[0].number("index")
  if result.opcode != "tuple":
    return limit
  new = computations[body].get(result.operands[place or 0])
  step = _constants(computations[body], new.operands) if new and new.opcode == "add" else []
  return math.ceil(limit / step[0]) if step else limit  # XLA unrolls some of its own loops


def _limit(computations: dict[str, Computation], condition: str) -> int:
  """What a condition compares the count with."""
  operations = computations.get(condition, {})
  if len(limits := set(_constants(operations, tuple(operations)))) == 1:
    return limits.pop()
  called = [name for own in operations.values() for name in _CALLED.findall(own.attributes)]
  return max((_limit(computations, name) for name in called), default=1)


def _constants(operations: Computation, names: Sequence[str]) -> list[int]:
  """Those of these operations that are whole numbers."""
  found = (own for name in names if (own := operations.get(name)) and own.opcode == "constant")
  constants = (own for own in found if own.results[0].dtype[0] in "su")  # s32, u32 and the like
  return [int(found[1]) for own in constants if (found := re.match(r"\((\d+)\)", own.attributes))]


def _computations(text: str) -> tuple[dict[str, Computation], str]:
  """The computations of a program by name, and the name of that with which it begins."""
  computations: dict[str, Computation] = {}
  entry, current = "", dict[str, Operation]()
  for line in text.splitlines():
    # Kernels are spelled out over many lines that begin anyhow.
    if head := _HEAD.match(line):
      current = computations.setdefault(head[2], {})
      if head[1]:
        entry = head[2]
    elif line.startswith(" ") and (operation := _operation(line.strip())):
      current[operation.name] = operation
  return computations, entry


def _operation(line: str) -> Operation | None:
  found = _OPERATION.match(line)
  if not found:
    return None
  name, rest = found.groups()
  result, rest = _split(rest) if rest.startswith("(") else tuple(rest.partition(" ")[::2])
  opcode, _, rest = rest.strip().partition("(")
  operands, attributes = _split(f"({rest}")
  if opcode == "constant":
    operands, attributes = "", operands
  arrays = tuple(Array(dtype, _lengths(shape)) for dtype, shape in _SHAPE.findall(result))
  return Operation(name, opcode, arrays, _names(operands), attributes)


def _names(operands: str) -> tuple[str, ...]:
  return tuple(re.findall(r"%([\w.\-]+)", operands))


def _lengths(shape: str) -> tuple[int, ...]:
  return tuple(int(length) for length in shape.split(",") if length)


def _split(text: str) -> tuple[str, str]:
  """What begins with a parenthesis, cut behind the one that ends it."""
  depth = 0
  for place, char in enumerate(text):
    depth += (char == "(") - (char == ")")
    if depth == 0:
      return text[: place + 1], text[place + 1 :]
  return text, ""
