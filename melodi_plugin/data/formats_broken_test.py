"""Every format: one clear sentence for everything that is broken, and the others are read."""

import errno
import os
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from melodi_plugin.data.documents import BrokenDocument, Document, Fields, open_documents
from melodi_plugin.testing.files.records import (
  ANSWERED,
  ASKED,
  TEXTS,
  example,
  write_array_record,
  write_jsonl,
  write_parquet,
  write_texts,
)


def _begins(text, start):
  assert text.startswith(start), text


def _problem(path, read=False, **options):
  """The sentence for a broken file, from its name on."""
  with pytest.raises(BrokenDocument) as error:
    list(open_documents(str(path), **options)) if read else open_documents(str(path), **options)
  assert isinstance(error.value, ValueError)
  copy = pickle.loads(pickle.dumps(error.value))
  assert (copy.where, copy.problem) == (error.value.where, error.value.problem)
  assert str(copy) == str(error.value) == f"{copy.where} {copy.problem}."
  assert "\n" not in str(copy)
  return str(copy).removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
  ("record", "sentence"),
  [
    (b'{"text": "x"', "is not valid JSON (Expecting ',' delimiter at column 13); write one"),
    (b"[" * 60000, "is not valid JSON (maximum recursion depth exceeded"),
    (b'{"text": %s}' % (b"1" * 5000), "is not valid JSON (Exceeds the limit (4300 digits)"),
    (b'["x"]', "has no 'text' field; give it one, or name the field that holds the text."),
    ({"id": "x"}, "has no 'text' field; "),
    ({"text": 3}, "has 'text' of type int; make it a string."),
    ({"text": " \n"}, "has an empty 'text'; remove the record or give it text."),
    ({"text": "x", "id": []}, "has 'id' of type list; make it a string."),
    (b'{"text": "\xff"}', "is not UTF-8 (byte 10); save it as UTF-8."),
    (b'{"text": "\\ud800"}', "has a lone surrogate (\\ud800-\\udfff) in 'text'; write whole"),
    ({"text": "x", "id": "\udc00"}, "has a lone surrogate (\\ud800-\\udfff) in 'id'; write whole"),
    ({"text": "ü" * 51}, "is too large (102 bytes, and a text may have 100); split it or raise"),
    (b'{"text": "' + b"x" * 10**6, "is too large (1,000,011 bytes, and a text may have 100)"),
  ],
)
def test_broken_line_is_named_and_the_others_are_read(tmp_path, record, sentence):
  path = write_jsonl(tmp_path / "a.jsonl", {"text": "fine"}, record, b" \r", {"text": "good"})
  _begins(_problem(path, max_bytes=100), f"a.jsonl:2 {sentence}")
  source = open_documents(str(path), max_bytes=100, skip_broken=True)
  assert list(source) == [Document("a:1", "fine"), Document("a:4", "good")]
  assert [error.where for error in source.broken] == [f"{path}:2"]


@pytest.mark.parametrize(
  ("raw", "sentence"),
  [
    (b"", "a.txt is empty; remove the file or give it text."),
    (b" \n", "a.txt is empty; remove the file or give it text."),
    ("ü".encode()[:1], "a.txt is not UTF-8 (byte 0); save it as UTF-8."),
    (b"x" * 101, "a.txt is too large (101 bytes, and a text may have 100); split it or raise"),
  ],
)
def test_broken_text_file_is_named(tmp_path, raw, sentence):
  (tmp_path / "a.txt").write_bytes(raw)
  _begins(_problem(tmp_path / "a.txt", max_bytes=100), sentence)


@pytest.mark.parametrize(
  ("columns", "sentence"),
  [
    ({"body": ["x"], "id": ["1"]}, "a.parquet has no 'text' field but 'body', 'id'; give it one"),
    ({"text": [1]}, "a.parquet has 'text' of type int64; make it a column of strings."),
    ({"text": [["x"]]}, "a.parquet has 'text' of type list<"),
    ({"text": ["x"], "id": [0.5]}, "a.parquet has 'id' of type double; make it a column of"),
    ({"text": ["x", None]}, "a.parquet, record 2 has no 'text' field; give it one"),
    ({"text": ["x", " "]}, "a.parquet, record 2 has an empty 'text'; remove the record"),
    ({"text": [b"\xff"]}, "a.parquet, record 1 is not UTF-8 (byte 0); save it as UTF-8."),
    ({"text": ["x"], "id": [b"\xff"]}, "a.parquet, record 1 is not UTF-8 (byte 0); save it as"),
    ({"text": ["x" * 101]}, "a.parquet, record 1 is too large (101 bytes, and a text may have"),
  ],
)
def test_broken_parquet_is_named(tmp_path, columns, sentence):
  path = write_parquet(tmp_path / "a.parquet", columns)
  _begins(_problem(path, read=True, max_bytes=100), sentence)


@pytest.mark.parametrize(
  ("record", "sentence"),
  [
    (b"\xff\xff\xff", "is not a tf.train.Example; write one serialized Example per record."),
    ({"body": b"x"}, "has no 'text' field but 'body'; give it one, or name the field that holds"),
    (b"\x12\x00", "has no 'text' field but no field at all; give it one"),
    ({"text": 3}, "has 'text' of type int; make it a string."),
    ({"text": 0.5}, "has 'text' of 1 values in a float_list; give it one, in a bytes_list."),
    ({"text": [b"x", b"y"]}, "has 'text' of 2 values in a bytes_list; give it one, in a"),
    ({"text": []}, "has 'text' of 0 values in a bytes_list; give it one, in a"),
    ({"text": b" "}, "has an empty 'text'; remove the record or give it text."),
    ({"text": b"\xff"}, "is not UTF-8 (byte 0); save it as UTF-8."),
    ({"text": b"x" * 101}, "is too large (101 bytes, and a text may have 100); split it"),
    (b"", "is empty, or its file was cut since it was opened; write it again."),
  ],
)
def test_broken_array_record_is_named_when_it_is_read(tmp_path, record, sentence):
  good = {"text": b"good", "id": 7}
  path = write_array_record(tmp_path / "a.array_record", good, record, {"text": b"last"})
  problem = _problem(path, read=True, max_bytes=100)
  _begins(problem, f"a.array_record, record 2 {sentence}")
  source = open_documents(str(path), max_bytes=100, skip_broken=True)
  assert [source[0], source[2]] == [Document("7", "good"), Document("a:3", "last")]
  assert source.broken == ()
  assert source.sizes().tolist()[1] == len(
    record if isinstance(record, bytes) else example(**record)
  )


@pytest.mark.parametrize(
  ("name", "kept", "sentence"),
  [
    ("a.jsonl", 0.99, "a.jsonl:3 is not valid JSON (Unterminated string starting at column 10)"),
    ("a.parquet", 0.5, "a.parquet cannot be read (Parquet magic bytes not found in footer"),
    ("a.parquet", 0.0, "a.parquet cannot be read (Parquet file size is 0 bytes"),
    (
      "a.array_record",
      0.5,
      "a.array_record cannot be read (it is not a complete ArrayRecord file); restore the file and",
    ),
    ("a.array_record", 0.7, "a.array_record cannot be read (Corrupted Riegeli/records file: "),
    ("a.array_record", 0.0, "a.array_record cannot be read (ArrayRecord file should be at least"),
  ],
)
def test_truncated_file_is_named(tmp_path, name, kept, sentence):
  path = write_texts(tmp_path / name)
  os.truncate(path, int(path.stat().st_size * kept))
  _begins(_problem(path, read=True), sentence)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.parquet", "a.array_record"])
def test_file_that_cannot_be_read_is_one_broken_entry(tmp_path, name, monkeypatch):
  (tmp_path / name).symlink_to(tmp_path / "gone")
  _begins(_problem(tmp_path / "*").removeprefix(name), " cannot be read (")
  (tmp_path / "fine.txt").write_text("fine")
  source = open_documents(str(tmp_path), skip_broken=True)
  assert list(source) == [Document("fine.txt", "fine")]
  assert [error.where for error in source.broken] == [f"{tmp_path}/{name}"]


def test_missing_permission_is_named(tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

  path = write_texts(tmp_path / "a.jsonl")
  monkeypatch.setattr("melodi_plugin.data.files.File.open", refuse)
  assert _problem(path) == (
    "a.jsonl cannot be read (Permission denied); restore the file and its permissions, or leave "
    "it out."
  )


@pytest.mark.parametrize(
  ("name", "sentence"),
  [
    ("a.jsonl", "has changed since it was opened (0 bytes instead of 5,"),
    ("a.txt", "has changed since it was opened (10 bytes instead of 20); open the documents again"),
    ("a.parquet", "cannot be read (Parquet magic bytes not found in footer"),
    ("a.array_record", "cannot be read (ArrayRecord file should be at least 64KB big)"),
  ],
)
def test_file_that_was_cut_or_has_vanished_is_named_when_it_is_read(tmp_path, name, sentence):
  path = tmp_path / name
  path.write_text("x" * 20) if name == "a.txt" else write_texts(path)
  source = open_documents(str(path), skip_broken=True)
  source = pickle.loads(pickle.dumps(source))
  os.truncate(path, 10)
  with pytest.raises(BrokenDocument) as error:
    source[len(source) - 1]
  _begins(error.value.problem, sentence)
  path.unlink()
  fresh = pickle.loads(pickle.dumps(source))
  with pytest.raises(BrokenDocument, match=r"cannot be read|cut since it was opened"):
    fresh[0]


def test_parquet_that_was_replaced_is_named(tmp_path):
  path = write_parquet(tmp_path / "a.parquet", {"text": TEXTS})
  source = open_documents(str(path))
  write_parquet(path, {"text": ["other"]})
  with pytest.raises(BrokenDocument, match=r"record 1 cannot be read \(it has changed since"):
    source[0]


@pytest.mark.parametrize("name", ["a.parquet", "a.array_record"])
def test_flipped_bit_breaks_the_documents_that_it_touches(tmp_path, name):
  path = tmp_path / name
  if name == "a.parquet":
    options = {"row_group_size": 1, "write_page_checksum": True, "compression": "none"}
    write_parquet(path, {"text": TEXTS}, **options)
  else:
    write_array_record(path, *({"text": text.encode()} for text in TEXTS))
  raw = bytearray(path.read_bytes())
  raw[raw.index(b"zwei")] ^= 1
  path.write_bytes(raw)
  source = open_documents(str(path))
  assert (source[0].text, source[2].text) == (TEXTS[0], TEXTS[2])
  with pytest.raises(BrokenDocument, match=r"record 2 cannot be read \(.*(CRC|hash)"):
    source[1]
  sizes = source.sizes()
  assert sizes[1] == 0
  assert (sizes[[0, 2]] > 0).all()


def test_two_columns_of_one_name_are_refused(tmp_path):
  table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
  pq.write_table(table, tmp_path / "a.parquet")
  with pytest.raises(BrokenDocument, match="has two columns 'text'; rename one of them"):
    open_documents(str(tmp_path))


LIST = "has no list of messages in 'messages'; make it one of objects with a 'role' and a 'content'"


@pytest.mark.parametrize(
  ("messages", "problem"),
  [
    ([], "has no message in 'messages'; remove the record or give it some."),
    ("Who is there?", LIST),
    (7, LIST),
    (None, LIST),
    ({"role": "user"}, LIST),
    ([ASKED, "Nay"], LIST),
    ([ASKED, {"role": "assistant"}], LIST),
    ([ASKED, {"role": "assistant", "content": None}], LIST),
    ([ASKED, {"role": "assistant", "content": [{"type": "text"}]}], LIST),
    (
      [ASKED, {"role": "tool", "content": "4"}, ANSWERED],
      "has the role 'tool' in message 2 of 'messages'; use system, user, assistant.",
    ),
    ([ASKED], "has no message of the assistant in 'messages', so nothing to learn; add its"),
    ([ANSWERED, ASKED, ANSWERED], "begins with an answer in 'messages'; put the message that it"),
    ([ASKED, {"role": "assistant", "content": "\ud800"}], "has a lone surrogate"),
    ([ASKED, {"role": "assistant", "content": "x" * 300}], "is too large"),
  ],
)
def test_what_is_no_conversation_is_named_in_one_sentence(tmp_path, messages, problem):
  path = write_jsonl(tmp_path / "a.jsonl", {"messages": [ASKED, ANSWERED]}, {"messages": messages})
  options = {"fields": Fields(text="messages"), "conversations": True, "max_bytes": 300}
  _begins(_problem(path, **options), f"a.jsonl:2 {problem}")
  source = open_documents(str(path), skip_broken=True, **options)
  assert len(source) == len(source.broken) == 1


def test_a_record_without_messages_is_told_so(tmp_path):
  path = write_jsonl(tmp_path / "a.jsonl", {"text": "Who is there?"})
  options = {"fields": Fields(text="messages"), "conversations": True}
  assert _problem(path, **options).startswith("a.jsonl:1 has no 'messages' field; give it one")
