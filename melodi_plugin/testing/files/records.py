"""Documents in files of every format: the same three texts, or records of any fields."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter
from maxtext.input_pipeline.protos import example_pb2

TEXTS = ["one", "zwei\nü", "three" * 1000]
ASKED = {"role": "user", "content": "Wer ist da? ü"}
ANSWERED = {"role": "assistant", "content": "Nay", "weight": 1}


def write_jsonl(path: pathlib.Path, *records: dict[str, Any] | bytes) -> pathlib.Path:
  """One record per line, in folders that are made; bytes are lines as they are."""
  lines = [
    record if isinstance(record, bytes) else json.dumps(record).encode() for record in records
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b"\n".join(lines) + b"\n")
  return path


def write_parquet(path: pathlib.Path, columns: dict[str, Any], **options: Any) -> pathlib.Path:
  """One row per record; `options` are those of `pyarrow.parquet.write_table`."""
  pq.write_table(pa.table(columns), path, **options)
  return path


def example(**features: Any) -> bytes:
  """A serialized tf.train.Example; a feature has one value or a list of them."""
  made = example_pb2.Example()
  for name, values in features.items():
    values = values if isinstance(values, list) else [values]
    values = [value.encode() if isinstance(value, str) else value for value in values]
    feature = made.features.feature[name]
    kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}
    kind[type(values[0]) if values else bytes].value.extend(values)
  return made.SerializeToString()


def write_array_record(path: pathlib.Path, *records: dict[str, Any] | bytes) -> pathlib.Path:
  """Records as `example` makes them; bytes are records as they are."""
  writer = ArrayRecordWriter(str(path), "group_size:1")
  for record in records:
    writer.write(record if isinstance(record, bytes) else example(**record))
  writer.close()
  return path


def write_texts(path: pathlib.Path) -> pathlib.Path:
  """TEXTS with the ids a, b, c in the format that the name asks for."""
  rows = [{"text": text, "id": id} for text, id in zip(TEXTS, "abc", strict=True)]
  if path.suffix == ".jsonl":
    return write_jsonl(path, *rows)
  if path.suffix == ".parquet":
    return write_parquet(path, {"id": list("abc"), "text": TEXTS, "other": [1, 2, 3]})
  return write_array_record(path, *rows)
