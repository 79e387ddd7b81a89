"""Every format: what it reads, at any place, with which ids."""

import json

import pyarrow as pa
import pytest

from melodi_plugin.data.documents import Document, Fields, open_documents
from melodi_plugin.testing.files.records import (
  ANSWERED,
  ASKED,
  TEXTS,
  write_jsonl,
  write_parquet,
  write_texts,
)


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.array_record"])
def test_documents_are_read_with_their_ids(tmp_path, name):
  source = open_documents(str(write_texts(tmp_path / name)))
  assert list(source) == [Document(*pair) for pair in zip("abc", TEXTS, strict=True)]
  assert source[2].text == TEXTS[2]
  assert source[0].text == TEXTS[0]
  assert source.sizes()[1] >= len(TEXTS[1].encode())


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ".array_record", ".arrayrecord"])
@pytest.mark.parametrize("shard", ["{}{}", "{}{}-00000-of-00002", "{}-00000-of-00002{}"])
def test_ids_come_from_the_file_name_and_other_fields_can_be_named(tmp_path, ending, shard):
  good = write_texts(tmp_path / ("x" + ending))
  path = tmp_path / "sub" / shard.format("y", ending)
  path.parent.mkdir()
  good.rename(path)
  source = open_documents(str(tmp_path), Fields(id="no such field"))
  stem = "sub/" + path.name.replace(ending, "")
  assert [document.id for document in source] == [f"{stem}:{n}" for n in (1, 2, 3)]
  where = f"{path}:{{}}" if ending == ".jsonl" else f"{path}, record {{}}"
  assert [source.name(i) for i in range(3)] == [where.format(n) for n in (1, 2, 3)]
  as_text = open_documents(str(tmp_path), Fields(text="id", id="text"))
  assert [document.text for document in as_text] == list("abc")


def test_text_file_of_one_long_line_is_a_document(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"x" * 100)
  assert list(open_documents(str(tmp_path), max_bytes=100)) == [Document("a.txt", "x" * 100)]


@pytest.mark.parametrize(
  "kind", [pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_takes_every_type_of_text_and_whole_numbers_as_ids(tmp_path, kind):
  columns = {"text": pa.array(TEXTS).cast(kind), "id": [7, None, 9]}
  source = open_documents(str(write_parquet(tmp_path / "a.parquet", columns)))
  assert list(source) == [Document(*p) for p in zip(["7", "a:2", "9"], TEXTS, strict=True)]
  assert source.sizes().tolist() == [len(text.encode()) for text in TEXTS]


def test_parquet_is_read_at_any_place_across_batches_and_row_groups(tmp_path):
  texts = [f"{i} " + "x" * (i % 7) for i in range(5000)]
  source = open_documents(
    str(write_parquet(tmp_path / "a.parquet", {"text": texts}, row_group_size=1900))
  )
  for i in (0, 1, 1024, 1023, 4999, 1899, 1900, 3799, 3800, 2, 2500):
    assert source[i] == Document(f"a:{i + 1}", texts[i])
  assert source.sizes().tolist() == [len(text) for text in texts]


def test_byte_order_mark_is_no_text(tmp_path):
  (tmp_path / "a.txt").write_bytes("\ufeffthe cat".encode())
  (tmp_path / "b.jsonl").write_bytes('\ufeff{"text": "the dog"}\n{"text": "a cat"}'.encode())
  assert [document.text for document in open_documents(str(tmp_path))] == [
    "the cat",
    "the dog",
    "a cat",
  ]


@pytest.mark.parametrize("name", ["a;b", "a[1]", "a*"])
def test_folder_is_found_whatever_letters_its_name_has(tmp_path, name):
  (tmp_path / name).mkdir()
  (tmp_path / name / "x.txt").write_text("the cat")
  assert len(open_documents(str(tmp_path / name))) == 1
  assert len(open_documents(str(tmp_path / name / "x.txt"))) == 1


def test_conversations_are_read_from_lists_and_from_their_json(tmp_path):
  messages = [ASKED, ANSWERED]
  write_jsonl(tmp_path / "a.jsonl", {"messages": messages}, {"messages": json.dumps(messages)})
  write_parquet(tmp_path / "b.parquet", {"messages": [json.dumps(messages)]})
  found = list(open_documents(str(tmp_path), Fields(text="messages"), conversations=True))
  assert [document.id for document in found] == ["a:1", "a:2", "b:1"]
  assert [json.loads(document.text) for document in found] == [messages] * 3
  assert "ü" in found[0].text
