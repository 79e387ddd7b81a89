"""A memory file as bytes: arrays and what is said of them, in one safetensors file.

Its header says what the file is (`Metadata`) and holds a digest of all other bytes, so whatever is
cut off or changed is found before an array is made of it.  Slots that hold nothing are left out:
along the first axis of every array the zeros at both ends.

Knows neither JAX nor a model, so that `melodi memory` starts at once.
"""

import hashlib
import json
import re
from collections import Counter
from typing import Annotated, Any, NamedTuple

import numpy as np
import safetensors
from pydantic import BaseModel, Field, Json, NonNegativeInt
from safetensors.numpy import save

from melodi_plugin.output.files import read_file, write_file

_FORMAT, _VERSION = "melodi-memory", 1
_LARGEST_HEADER = 100_000_000  # bytes that safetensors reads
_DIGEST = re.compile(rb'"digest":"([0-9a-f]{32})"')  # quotes inside of texts have a backslash
_UNSEALED = "0" * 32

_Int32 = Annotated[int, Field(ge=0, lt=2**31)]


class Metadata(BaseModel, frozen=True):
  """What a file says of itself.

  Attributes:
    model: fingerprint of the parameters.
    tokenizer: fingerprint of the tokenizer.
    settings: what else decides how the arrays are read.
    tokens_read: of the document.
    held: windows that memory holds.
    count: tokens in the open window.
    pending: ids of the tokens that come next, and have not been read.
    prefix: hash of the ids that have been read.
    compact: whether keys and values of memory are left out, to be made anew.
    trimmed: for arrays with slots left out, the first slot that is there, and how many there were.
  """

  model: str
  tokenizer: str
  settings: Json[dict[str, Any]]
  tokens_read: NonNegativeInt
  held: _Int32
  count: _Int32
  pending: Json[tuple[_Int32, ...]]
  prefix: str
  title: str
  created: str
  writer: str
  compact: bool
  trimmed: Json[dict[str, tuple[NonNegativeInt, NonNegativeInt]]]


class BelongsElsewhere(ValueError):  # noqa: N818, nothing is wrong with the file
  """A file that is whole, and not of this model, tokenizer or settings."""


class Stored(NamedTuple):
  """An array of a file."""

  dtype: str  # as safetensors calls it
  shape: tuple[int, ...]  # with the slots that were left out
  first: int  # slot that is there
  data: bytes


class Contents(NamedTuple):
  """All of a file."""

  metadata: Metadata
  arrays: dict[str, Stored]
  size: int  # bytes of the file


class Description(NamedTuple):
  """What is in a file, without the arrays."""

  metadata: Metadata
  parts: dict[str, int]  # bytes by the first two names below a layer, as in memory.long
  size: int


def write(path: str, arrays: dict[str, np.ndarray], said: dict[str, Any]) -> None:
  """Writes a file; an interrupted call leaves the old one.

  Args:
    path: may be remote.
    arrays: by name, as in layer.3.memory.long; each has an axis of slots, and any others.
    said: `Metadata` without `trimmed`, as plain Python values.
  """
  trimmed, filled = {}, {}
  for name, array in arrays.items():
    first, end = _filled(array)
    filled[name] = np.ascontiguousarray(array[first:end])
    if end - first < len(array):
      trimmed[name] = (first, len(array))
  said = {"format": f"{_FORMAT}/{_VERSION}", "digest": _UNSEALED, **said, "trimmed": trimmed}
  content = save(filled, {name: _text(value) for name, value in said.items()})
  at, digest = _digest(content)
  write_file(path, content[: at.start] + digest + content[at.stop :])


def read(path: str) -> Contents:
  """Reads and checks a whole file.

  Raises:
    ValueError: if it is no memory file, was cut off or changed, or has a newer format.
  """
  content = read_file(path)
  header = _header(path, content)
  damaged = f"{path} is damaged: its digest is that of other bytes; copy or write it again."
  at, digest = _digest(content)
  if content[at] != digest:
    raise ValueError(damaged)
  try:
    metadata = Metadata.model_validate(header["__metadata__"])
    found = safetensors.deserialize(content)
    arrays = {name: _stored(array, metadata.trimmed.get(name)) for name, array in found}
  except (safetensors.SafetensorError, ValueError, LookupError) as error:
    raise ValueError(damaged) from error
  return Contents(metadata, arrays, len(content))


def describe(path: str) -> Description:
  """What is in a file, all of which is checked; raises ValueError as `read` does."""
  metadata, arrays, size = read(path)
  parts: Counter[str] = Counter()
  for name, array in arrays.items():
    parts[".".join(name.split(".")[2:4])] += len(array.data)
  return Description(metadata, dict(parts), size)


def type_name(dtype: np.dtype) -> str:
  """A type as safetensors calls it."""
  return safetensors.TensorSpec(dtype=dtype.name, shape=(0,), data_ptr=0, data_len=0).dtype


def _filled(array: np.ndarray) -> tuple[int, int]:
  """The slots from the first to the last in which any bit is set; -0.0 has one."""
  if not array.size:
    return 0, len(array)
  bits = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), -1)
  slots = np.flatnonzero(bits.any(axis=1))
  return (int(slots[0]), int(slots[-1]) + 1) if len(slots) else (0, 0)


def _text(value: Any) -> str:
  """A value as the header holds it; a title may come from a name of a file that is no UTF-8."""
  text = value if isinstance(value, str) else json.dumps(value)
  return text.encode("utf-8", "replace").decode()


def _digest(content: bytes) -> tuple[slice, bytes]:
  """Where the digest stands, and what it must be: that of the content without it."""
  found = _DIGEST.search(content)
  at = slice(*found.span(1)) if found else slice(0, 0)
  digest = hashlib.blake2b(memoryview(content)[: at.start], digest_size=16)
  digest.update(memoryview(content)[at.stop :])
  return at, digest.hexdigest().encode()


def _header(path: str, content: bytes) -> dict[str, Any]:
  """The header of a file of this format that is all there."""
  foreign = ValueError(
    f"{path} is not a memory file, or its header is damaged; give one that melodi_memory_out= has "
    "written."
  )
  end = 8 + int.from_bytes(content[:8], "little")
  if content[8:9] != b"{" or end > _LARGEST_HEADER:
    raise foreign
  _check_size(path, content, end)
  try:
    header = json.loads(content[8:end])
    name, _, version = header["__metadata__"]["format"].partition("/")
    newer = name == _FORMAT and int(version) > _VERSION
    ends = [array["data_offsets"][1] for key, array in header.items() if key != "__metadata__"]
    whole = end + max(ends, default=0)
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
    raise foreign from error
  if newer:
    raise ValueError(
      f"{path} has the format {name}/{version}, and this version of melodi_plugin reads up to "
      f"{_FORMAT}/{_VERSION}; install a newer one."
    )
  if name != _FORMAT:
    raise foreign
  _check_size(path, content, whole)
  return header


def _check_size(path: str, content: bytes, whole: int) -> None:
  if len(content) < whole:
    raise ValueError(
      f"{path} was cut off: it has {len(content):,} of at least {whole:,} bytes; copy or write it "
      "again."
    )


def _stored(found: dict[str, Any], trimmed: tuple[int, int] | None) -> Stored:
  there, *others = found["shape"]
  first, length = trimmed or (0, there)
  if first + there > length:
    raise LookupError(f"slots {first} to {first + there} of {length}")
  return Stored(found["dtype"], (length, *others), first, found["data"])
