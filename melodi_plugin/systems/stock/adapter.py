"""What memory adds to a stock model in a file of its own, and whose weights it was made for."""

import json
from collections.abc import Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

from melodi_plugin.output.files import read_file, write_file

_FORMAT = "melodi-adapter/1"


class Adapter(NamedTuple):
  """What a file holds."""

  base: str  # the digest of the stock model's parameters
  arrays: dict[str, np.ndarray]  # by path in the model, in float32


def write(path: str, base: str, arrays: Mapping[str, np.ndarray], *, rounded: bool) -> int:
  """Writes a file; returns how many bytes it has.

  Args:
    path: may be remote.
    base: see `Adapter`.
    arrays: see `Adapter`.
    rounded: to bfloat16, which halves the file.
  """
  dtype = ml_dtypes.bfloat16 if rounded else np.float32
  stored = {name: np.ascontiguousarray(leaf, dtype) for name, leaf in arrays.items()}
  content = save(stored, {"format": _FORMAT, "base": base})
  write_file(path, content)
  return len(content)


def read(path: str) -> Adapter:
  """Reads a file; raises ValueError if there is none, or it is none of these."""
  content = read_file(path)
  try:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    said, found = header["__metadata__"], safetensors.deserialize(content)
    arrays = {name: _array(**stored) for name, stored in found}
    known, base = said["format"] == _FORMAT, said["base"]
  except (safetensors.SafetensorError, ValueError, LookupError, TypeError):
    known = False
  if not known:
    raise ValueError(
      f"{path} is not an adapter, or is damaged; give a file that `melodi graft --adapter` has "
      "written."
    )
  return Adapter(base, arrays)


_TYPES = {"F32": np.float32, "BF16": ml_dtypes.bfloat16}


def _array(dtype: str, shape: list[int], data: bytearray) -> np.ndarray:
  return np.frombuffer(data, _TYPES[dtype]).reshape(shape).astype(np.float32)
