"""One class per format: where the documents of a file lie, and reading one of them.

A format keeps offsets, never texts and nothing open, so it can be pickled and shared by threads.
`scan` comes first; all else is defined after it.
"""

import functools
import json
import time
from array import array
from collections.abc import Iterator
from typing import Any, override

import numpy as np

from melodi_plugin.data.files import File, is_remote
from melodi_plugin.data.parquet import ParquetTable
from melodi_plugin.data.records import (
  Advance,
  BrokenDocument,
  Document,
  Format,
  Report,
  Rules,
  decode,
  reading,
)


def open_format(file: File, rules: Rules) -> Format:
  """The format of `file`, not yet scanned, whose records are checked against `rules`."""
  formats = {".jsonl": JsonLines, ".txt": TextFile, ".parquet": ParquetTable}
  return formats.get(file.suffix, ArrayRecords)(file, rules)


class TextFile(Format):
  """`.txt`: the whole file is one document."""

  def __init__(self, file: File, rules: Rules):
    self.file = file
    self._rules = rules
    self._size = 0

  @override
  def scan(self, report: Report, advance: Advance) -> np.ndarray:
    path, longest = self.file.path, self._rules.max_bytes
    with reading(path):
      raw = self.file.read(0, longest + 1)
    advance(self.file.size)
    if len(raw) > longest:
      raise self._rules.too_large(path, max(self.file.size, len(raw)))
    if not raw or raw.isspace():
      raise BrokenDocument(path, "is empty; remove the file or give it text")
    self._size = len(raw)
    return np.array([hash(self._rules.document(path, raw, self.file.name).id)])

  @override
  def __len__(self) -> int:
    return 1

  @override
  def where(self, index: int) -> str:
    return self.file.path

  @override
  def read(self, index: int) -> Document:
    # One byte more finds a file that has grown.
    raw = _read_again(self.file, self.file.path, 0, self._size, self._size + 1)
    return self._rules.document(self.file.path, raw, self.file.name)

  @override
  def sizes(self) -> np.ndarray:
    return np.array([self._size])

  @override
  def known_sizes(self) -> np.ndarray:
    return self.sizes()


class JsonLines(Format):
  """`.jsonl`: one JSON object per line; blank lines are left out."""

  def __init__(self, file: File, rules: Rules):
    self.file = file
    self._rules = rules
    # JSON rarely takes more than four times the bytes of a text; the rest is for other fields.
    self._longest = 4 * rules.max_bytes + 2**16

  @override
  def scan(self, report: Report, advance: Advance) -> np.ndarray:
    lines, offsets, sizes, ids = array("q"), array("q"), array("q"), array("q")
    offset = 0
    for line, (size, raw) in enumerate(self._lines(), start=1):
      if raw is None or not raw.isspace():
        try:
          ids.append(hash(self._parse(line, size, raw).id))
          lines.append(line)
          offsets.append(offset)
          sizes.append(size)
        except BrokenDocument as error:
          report(error)
      offset += size
      advance(0 if self.file.compressed else size)
    advance(self.file.size if self.file.compressed else 0)
    self._line, self._offset, self._size = map(np.array, (lines, offsets, sizes))
    return np.array(ids)

  @override
  def __len__(self) -> int:
    return len(self._line)

  @override
  def where(self, index: int) -> str:
    return f"{self.file.path}:{self._line[index]}"

  @override
  def read(self, index: int) -> Document:
    start, size = int(self._offset[index]), int(self._size[index])
    raw = _read_again(self.file, self.where(index), start, size, size)
    return self._parse(int(self._line[index]), size, raw)

  @override
  def sizes(self) -> np.ndarray:
    return self._size

  @override
  def known_sizes(self) -> np.ndarray:
    return self.sizes()

  def _lines(self) -> Iterator[tuple[int, bytes | None]]:
    """(size, line) of every line; None for one that is too long to be held in memory."""
    with reading(self.file.path), self.file.open() as stream:
      while raw := stream.readline(self._longest + 1):
        size = len(raw)
        if size <= self._longest:
          yield size, raw
          continue
        while not raw.endswith(b"\n") and (raw := stream.readline(2**20)):
          size += len(raw)
        yield size, None

  def _parse(self, line: int, size: int, raw: bytes | None) -> Document:
    where, (text, id, others) = f"{self.file.path}:{line}", self._rules.fields
    if raw is None:
      raise self._rules.too_large(where, size)
    source = decode(where, raw.rstrip())
    try:
      record = json.loads(source)
    except (ValueError, RecursionError) as error:  # A number of too many digits raises ValueError.
      reason = str(error).partition(";")[0]
      if isinstance(error, json.JSONDecodeError):
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
      raise BrokenDocument(
        where, f"is not valid JSON ({reason}); write one object per line"
      ) from None
    if not isinstance(record, dict) or text not in record:
      raise self._rules.no_text(where)
    name = record.get(id, f"{self.file.stem}:{line}")
    return self._rules.document(where, record[text], name, [_inside(record, o) for o in others])


def _inside(record: Any, path: str) -> Any:
  """The field of a record, or the one that lies on a path of names; None if there is none."""
  if not isinstance(record, dict):
    return None
  if path in record:
    return record[path]
  name, dot, rest = path.partition(".")
  return _inside(record.get(name), rest) if dot else None


class ArrayRecords(Format):
  """ArrayRecord: one record is one serialized tf.train.Example, as MaxText reads them."""

  def __init__(self, file: File, rules: Rules):
    self.file = file
    self._rules = rules
    self._sizes: np.ndarray | None = None

  @override
  def scan(self, report: Report, advance: Advance) -> None:
    path = self.file.path
    if is_remote(path) and not path.startswith("gs://"):
      raise BrokenDocument(
        path, "is an ArrayRecord file, which can only lie on a local disk or gs://; copy it there"
      )
    self._opened = time.time_ns()
    with reading(path):
      self._length = len(_records(path, self._opened))
    advance(self.file.size)

  @override
  def __len__(self) -> int:
    return self._length

  @override
  def where(self, index: int) -> str:
    return f"{self.file.path}, record {index + 1}"

  @override
  def read(self, index: int) -> Document:
    where, (text, id, others) = self.where(index), self._rules.fields
    features = _features(where, self._raw(index))
    if text not in features:
      found = ", ".join(map(repr, sorted(features))) or "no field at all"
      raise self._rules.no_text(where, f" but {found}")
    name = _value(where, id, features[id]) if id in features else f"{self.file.stem}:{index + 1}"
    more = [_value(where, o, features[o]) if o in features else None for o in others]
    return self._rules.document(where, _value(where, text, features[text]), name, more)

  @override
  def sizes(self) -> np.ndarray:
    if self._sizes is None:
      self._sizes = np.array([self._size(index) for index in range(len(self))], np.int64)
    return self._sizes

  def _raw(self, index: int) -> bytes:
    with reading(self.where(index)):
      raw = _records(self.file.path, self._opened)[index]
    if not raw:  # Past the end of a file the reader gives this, and no error.
      raise BrokenDocument(
        self.where(index), "is empty, or its file was cut since it was opened; write it again"
      )
    return raw

  def _size(self, index: int) -> int:
    try:
      return len(self._raw(index))
    except BrokenDocument:
      return 0


@functools.lru_cache(maxsize=64)
def _records(path: str, opened: int) -> Any:
  """The records of a file; at most 64 files of a process are kept open.

  `opened` tells a file from the one that had its name before.
  """
  import grain  # It brings JAX along, which the other formats do without.

  try:
    return grain.sources.ArrayRecordDataSource([path])
  except RuntimeError as error:  # Empty for a file that is cut in some places.
    raise OSError(str(error) or "it is not a complete ArrayRecord file") from error


def _features(where: str, raw: bytes) -> Any:
  """The features of a serialized tf.train.Example, by name."""
  # Slow to import, and only this format needs them.
  from google.protobuf.message import DecodeError
  from maxtext.input_pipeline.protos import example_pb2

  try:
    return example_pb2.Example.FromString(raw).features.feature
  except DecodeError:
    raise BrokenDocument(
      where, "is not a tf.train.Example; write one serialized Example per record"
    ) from None


def _value(where: str, field: str, feature: Any) -> bytes | int:
  """The one value of a feature."""
  kind = feature.WhichOneof("kind") or "bytes_list"
  values = getattr(feature, kind).value
  if kind == "float_list" or len(values) != 1:
    raise BrokenDocument(
      where, f"has {field!r} of {len(values)} values in a {kind}; give it one, in a bytes_list"
    )
  return values[0]


def _read_again(file: File, where: str, start: int, size: int, limit: int) -> bytes:
  """The `size` bytes that the scan saw; `limit` bytes are read."""
  with reading(where):
    raw = file.read(start, limit)
  if len(raw) != size:
    raise BrokenDocument(
      where,
      f"has changed since it was opened ({len(raw):,} bytes instead of {size:,}); open the "
      "documents again",
    )
  return raw
