"""A GGUF file, read within its bounds.

The library reads behind the end of a file as if there were nothing, so a count that is too large
would keep it busy for ever.
"""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# Numbers and strings of a header; a vocabulary of 262,144 tokens with merges needs 2 million.
_MOST_VALUES = 2**22
_DEEPEST = 4  # arrays of arrays
_LONGEST = 100  # characters of a name in a sentence


class Reader(gguf.GGUFReader):
  """Header and tensors of a file; whatever does not fit into it is a ValueError with its name."""

  def __init__(self, path: Path):
    self._name, self._values, self._depth = "its beginning", 0, 0
    try:
      super().__init__(path)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
      raise ValueError(f"at {self._name}: {error}") from error

  def header(self) -> dict[str, Any]:
    """Its keys and values; raises ValueError for a value that cannot be read."""
    found = {}
    for name, field in self.fields.items():
      try:
        found[name] = field.contents()
      except ValueError as error:
        raise ValueError(f"at {name[:_LONGEST]}: {error}") from error
    return found

  def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
    self._values += 1
    if self._values > _MOST_VALUES:
      raise ValueError(f"more than {_MOST_VALUES:,} values, too many for a header")
    if int(offset) + np.dtype(dtype).itemsize * int(count) > self.data.size:
      raise ValueError(f"{int(count):,} values reach beyond the end, {self.data.size:,} bytes")
    return super()._get(offset, dtype, count, override_order)

  def _get_str(self, offset: Any) -> Any:
    found = super()._get_str(offset)
    if not self._depth:  # the name of what follows
      self._name = bytes(found[1][:_LONGEST]).decode(errors="replace")
    return found

  def _get_field_parts(self, orig_offs: Any, raw_type: Any) -> Any:
    self._depth += 1
    if self._depth > _DEEPEST:
      raise ValueError("arrays within arrays")
    if raw_type == gguf.GGUFValueType.ARRAY:
      count = int(self._get(orig_offs + 4, np.uint64)[0])  # after the type of its elements
      if count > _MOST_VALUES - self._values:
        raise ValueError(f"{count:,} values, too many for a header")
    found = super()._get_field_parts(orig_offs, raw_type)
    self._depth -= 1
    return found

  def _build_tensors(self, start_offs: Any, fields: list[Any]) -> None:
    tensors: dict[str, Any] = {}
    for field in fields:
      _, name, _, dims, _, offset = field.parts
      self._name = bytes(name[:_LONGEST]).decode(errors="replace")
      # The library multiplies in 64 bits, which a product of sizes can overflow; no format has less
      # than a bit per number.
      if max(math.prod(dims.tolist()) // 8, int(offset[0])) > self.data.size:
        raise ValueError(f"a tensor of {dims.tolist()} does not fit into {self.data.size:,} bytes")
      super()._build_tensors(start_offs, [field])
      if self.tensors[0].name in tensors:
        raise ValueError("a second tensor of this name")
      tensors[self.tensors[0].name] = self.tensors[0]
    self.tensors = list(tensors.values())
