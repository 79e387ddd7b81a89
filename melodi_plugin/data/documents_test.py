"""Formats, order, ids, and one clear sentence for every broken input."""

import json
import pickle

import pytest

from melodi_plugin.data.documents import Document, open_documents


def _write(path, *records):
  lines = [
    record if isinstance(record, bytes) else json.dumps(record).encode() for record in records
  ]
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(b"\n".join(lines) + b"\n")
  return path


def test_jsonl_gives_texts_and_ids_with_line_numbers_as_default(tmp_path):
  path = _write(
    tmp_path / "plays.jsonl",
    {"text": "one", "id": "a"},
    b"",
    {"text": "zwei\nü"},
    {"text": "three", "id": 7},
  )
  source = open_documents(str(path))
  assert list(source) == [("a", "one"), ("plays:3", "zwei\nü"), ("7", "three")]
  assert source[-1] == Document("7", "three")
  with pytest.raises(IndexError):
    source[3]  # pylint: disable=pointless-statement


def test_folder_is_read_with_subfolders_in_sorted_order_and_other_formats_are_left(tmp_path):
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / "2.txt").write_bytes(b"two\r\n")
  (tmp_path / "c.txt").write_text("three")
  (tmp_path / "manifest.json").write_text("{}")
  _write(tmp_path / "a.jsonl", {"text": "one"})
  assert list(open_documents(str(tmp_path))) == [
    ("a:1", "one"),
    ("b/2.txt", "two\r\n"),
    ("c.txt", "three"),
  ]


def test_glob_and_joined_patterns_read_each_file_once(tmp_path):
  for name in ("x/1.txt", "y/1.txt", "y/2.txt"):
    _write(tmp_path / name, name.encode())
  one = open_documents(f"{tmp_path}/*/1.txt")
  assert [document.id for document in one] == ["x/1.txt", "y/1.txt"]
  both = open_documents(f"{tmp_path}/y/2.txt; {tmp_path}/*/1.txt;{tmp_path}/y/1.txt")
  assert [document.text for document in both] == ["x/1.txt\n", "y/1.txt\n", "y/2.txt\n"]


def test_source_can_be_pickled(tmp_path):
  source = open_documents(str(_write(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})))
  assert list(pickle.loads(pickle.dumps(source))) == list(source)


@pytest.mark.parametrize(
  ("record", "sentence"),
  [
    (b'{"text": "x"', "is not valid JSON"),
    (b'["x"]', "has no 'text' field"),
    ({"id": "x"}, "has no 'text' field"),
    ({"text": 3}, "has a 'text' of type int"),
    ({"text": " \n"}, "has an empty 'text'"),
    ({"text": "x", "id": []}, "has an 'id' of type list"),
    (b'{"text": "\xff"}', "is not UTF-8"),
    (b'{"text": "\\ud800"}', "lone surrogate"),
  ],
)
def test_broken_line_is_named_when_the_source_is_opened(tmp_path, record, sentence):
  path = _write(tmp_path / "a.jsonl", {"text": "fine"}, record)
  with pytest.raises(ValueError, match=sentence) as error:
    open_documents(str(path))
  assert str(error.value).startswith(f"{path}:2 ")


@pytest.mark.parametrize(
  ("name", "raw", "pattern", "sentence"),
  [
    ("a.txt", b" ", "a.txt", "is empty"),
    ("a.txt", b"\xff", "a.txt", "is not UTF-8"),
    ("a.jsonl", b"\n", "a.jsonl", "hold no document"),
    ("a.txt", b"x", "b.txt", "No .jsonl or .txt file matches"),
    ("a.txt", b"x", "*.jsonl", "No .jsonl or .txt file matches"),
    ("a.json", b"x", ".", "No .jsonl or .txt file matches"),
    ("a.json", b"x", "a.*", "is neither .jsonl nor .txt"),
    ("a.txt", b"x", "a.txt;", "No .jsonl or .txt file matches"),
  ],
)
def test_unusable_files_are_refused(tmp_path, name, raw, pattern, sentence):
  (tmp_path / name).write_bytes(raw)
  with pytest.raises(ValueError, match=sentence):
    open_documents(f"{tmp_path}/{pattern}")


def test_changed_file_is_reported_when_it_is_read(tmp_path):
  path = _write(tmp_path / "a.jsonl", {"text": "one"})
  source = open_documents(str(path))
  path.write_bytes(b"oops\n")
  with pytest.raises(ValueError, match=r"a\.jsonl:1 is not valid JSON"):
    source[0]  # pylint: disable=pointless-statement
