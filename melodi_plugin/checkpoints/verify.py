"""Whether checkpoints are whole: every array is read, and every checksum compared."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from melodi_plugin.data.place import BrokenPlace, read_place
from melodi_plugin.maxtext import weights

_FORMATS = {"zarr.json": "zarr3", ".zarray": "zarr"}


class Verified(NamedTuple):
  """What was found of one checkpoint.

  Attributes:
    path: of its arrays.
    arrays: how many there are.
    size: their bytes, unpacked.
    unsealed: how many of them have no checksums, so that a flipped bit would not show.
    problem: what is wrong, '' if nothing is.
  """

  path: str
  arrays: int = 0
  size: int = 0
  unsealed: int = 0
  problem: str = ""


def find(paths: str) -> list[str]:
  """The folders of arrays of a run, or of checkpoints as `load_parameters_path` names them.

  Raises:
    ValueError: if there are none.
  """
  found = epath.Path(paths.rstrip("/")) / "checkpoints"
  return weights.run_checkpoints(str(found)) if found.exists() else weights.find_checkpoints(paths)


def verify(path: str) -> Verified:
  """Reads the folder of arrays of one checkpoint, and the place in the documents beside it."""
  found = Verified(path)
  try:
    listed = weights.stored_names(path)
    for name, array in _arrays(path):
      sealed = "crc32c" in json.dumps(array.spec().to_json())
      found = found._replace(
        arrays=found.arrays + 1,
        size=found.size + _read(array),
        unsealed=found.unsealed + (not sealed),
      )
      listed.discard(name)
    if listed:
      return found._replace(problem=f"{len(listed)} arrays are missing: {min(listed)}")
    if (documents := epath.Path(path).parent / "iter").exists():
      read_place(documents)
  except BrokenPlace as error:
    return found._replace(problem=f"its place in the documents {error}")
  except (OSError, ValueError, KeyError) as error:
    return found._replace(problem=str(error).strip().partition("\n")[0].rstrip("."))
  return found


def _arrays(path: str) -> Iterator[tuple[str, Any]]:
  """Name and TensorStore of every array."""
  import tensorstore as ts  # slow, and only this needs it

  base = path if "://" in path else f"file://{path}"
  packed = (epath.Path(path) / "manifest.ocdbt").exists()
  root = f"{base.rstrip('/')}/|ocdbt:" if packed else f"{base.rstrip('/')}/"
  for key in sorted(ts.KvStore.open(root).result().list().result()):
    name, _, end = key.decode().rpartition("/")
    if end in _FORMATS:
      spec = {"driver": _FORMATS[end], "kvstore": f"{root}{name}/"}
      yield name, ts.open(spec, open=True, read=True).result()


def _read(array: Any) -> int:
  """Reads all chunks, one after another; returns the bytes of the array."""
  steps = array.chunk_layout.read_chunk.shape or ()  # None for a scalar
  ranges = [range(0, size, step) for size, step in zip(array.shape, steps, strict=True)]
  for corner in itertools.product(*ranges):
    ends = (min(at + step, size) for at, step, size in zip(corner, steps, array.shape, strict=True))
    array[tuple(map(slice, corner, ends))].read().result()
  return int(np.prod(array.shape, dtype=np.int64)) * array.dtype.numpy_dtype.itemsize
