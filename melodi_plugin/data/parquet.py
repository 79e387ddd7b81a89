"""Parquet files: one row is one document.

Parquet is made to be read forward: reading a row decodes its row group up to there, page by page.
A thread goes on from the row that it read last, so only jumps are expensive; write small row
groups where documents are shuffled.
"""

import contextlib
import threading
from array import array
from collections.abc import Iterator
from typing import Any, override

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from melodi_plugin.data.files import File
from melodi_plugin.data.records import (
  Advance,
  BrokenDocument,
  Document,
  Format,
  Report,
  Rules,
  reading,
)

# The names of Arrow's types that hold text: string, large_string, string_view, binary, ...
_STRINGS = ("string", "binary", "string_view", "binary_view")

_thread = threading.local()  # `place`, of the row that this thread read last


class ParquetTable(Format):
  """The rows of one file."""

  def __init__(self, file: File, rules: Rules):
    self.file = file
    self._rules = rules
    self._sizes: np.ndarray | None = None

  @override
  def scan(self, report: Report, advance: Advance) -> np.ndarray:
    text, id, others = self._rules.fields
    with reading(self.file.path), self._open() as table:
      schema, metadata = table.schema_arrow, table.metadata
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
    bytes_per_row = sum(group.total_byte_size for group in groups) // max(len(self), 1)
    # A decoded batch is to have about 4 MiB, whatever the length of the documents.
    self._batch_rows = min(max(2**22 // max(bytes_per_row, 1), 1), 1024)
    self._check(schema)
    self._columns = [text, *(name for name in (id, *others) if name in schema.names)]
    ids = array("q")
    if id in schema.names:
      for column in self._column(id):
        first = len(ids)
        values = enumerate(_as_bytes(column).to_pylist(), start=first)
        ids.extend([_hash(self._id(index, value)) for index, value in values])
    else:
      ids.extend(_hash(self._id(index, None)) for index in range(len(self)))
    advance(self.file.size)
    return np.array(ids)

  @override
  def __len__(self) -> int:
    return int(self._starts[-1])

  @override
  def where(self, index: int) -> str:
    return f"{self.file.path}, record {index + 1}"

  @override
  def read(self, index: int) -> Document:
    where, group = self.where(index), int(np.searchsorted(self._starts, index, "right")) - 1
    with reading(where):
      batch, row = self._seek(group, index - int(self._starts[group]))
    text, id, others = self._rules.fields
    found = {c: _as_bytes(batch.column(c).slice(row, 1))[0].as_py() for c in set(self._columns)}
    if found[text] is None:
      raise self._rules.no_text(where)
    name = self._id(index, found.get(id))
    return self._rules.document(where, found[text], name, map(found.get, others))

  @override
  def sizes(self) -> np.ndarray:
    if self._sizes is None:
      sizes, text = np.zeros(len(self), np.int64), [self._rules.fields.text]
      # What cannot be read keeps 0; the other row groups may be whole.
      with contextlib.suppress(BrokenDocument), reading(self.file.path), self._open() as table:
        for group, row in enumerate(self._starts[:-1].tolist()):
          with contextlib.suppress(BrokenDocument), reading(self.file.path):
            for batch in table.iter_batches(
              self._batch_rows, row_groups=[group], columns=text, use_threads=False
            ):
              lengths = pc.fill_null(pc.binary_length(_as_bytes(batch.column(0))), 0)
              sizes[row : row + len(lengths)] = lengths.to_numpy(zero_copy_only=False)
              row += len(lengths)
      self._sizes = sizes
    return self._sizes

  def _check(self, schema: pa.Schema) -> None:
    """Refuses a file whose columns cannot hold documents."""
    text, id, others = self._rules.fields
    if text not in schema.names:
      raise self._rules.no_text(self.file.path, f" but {', '.join(map(repr, schema.names))}")
    for name in {text, id, *others} & set(schema.names):
      if schema.names.count(name) > 1:
        raise BrokenDocument(self.file.path, f"has two columns {name!r}; rename one of them")
      kind = schema.field(name).type
      kind = kind.value_type if pa.types.is_dictionary(kind) else kind
      if not (str(kind).endswith(_STRINGS) or (name != text and pa.types.is_integer(kind))):
        raise BrokenDocument(
          self.file.path, f"has {name!r} of type {kind}; make it a column of strings"
        )

  def _open(self) -> pq.ParquetFile:
    system, path = self.file.filesystem()
    # Pages are read one by one: `pre_buffer` would hold whole columns of a row group.
    return pq.ParquetFile(
      path,
      filesystem=system,
      buffer_size=2**20,
      pre_buffer=False,
      page_checksum_verification=True,
    )

  def _column(self, name: str) -> Iterator[pa.Array]:
    """One column of the whole file, in batches."""
    with reading(self.file.path), self._open() as table:
      for batch in table.iter_batches(self._batch_rows, columns=[name], use_threads=False):
        yield batch.column(0)

  def batches(self, group: int) -> Iterator[pa.RecordBatch]:
    """The rows of one row group, in batches; raises what pyarrow raises."""
    table = self._open()
    if table.metadata.num_rows != len(self):
      raise ValueError("it has changed since it was opened")
    return table.iter_batches(
      self._batch_rows, row_groups=[group], columns=self._columns, use_threads=False
    )

  def _id(self, index: int, value: Any) -> Any:
    return f"{self.file.stem}:{index + 1}" if value is None else value

  def _seek(self, group: int, row: int) -> tuple[pa.RecordBatch, int]:
    """The batch that holds `row` of row group `group`, and the row in that batch."""
    place, _thread.place = getattr(_thread, "place", None), None
    if place is None or place.table is not self or place.group != group or row < place.first:
      place = _Place(self, group)
    while row >= place.first + place.batch.num_rows:
      place.first += place.batch.num_rows
      place.batch = next(place.batches)
    _thread.place = place  # Only now: an error leaves no half-read place behind.
    return place.batch, row - place.first


class _Place:
  """Where a thread reads: a batch of one row group, and the batches that follow it."""

  def __init__(self, table: ParquetTable, group: int):
    self.table = table
    self.group = group
    self.first = 0  # Row of the group at which `batch` begins.
    self.batches = table.batches(group)
    self.batch = next(self.batches)


def _as_bytes(column: pa.Array) -> pa.Array:
  """Text of any Arrow type as UTF-8 that is not checked yet; integers as they are."""
  return column if pa.types.is_integer(column.type) else column.cast(pa.large_binary())


def _hash(id: Any) -> int:
  """The hash of the id that a document will have."""
  return hash(id.decode(errors="replace") if isinstance(id, bytes) else str(id))
