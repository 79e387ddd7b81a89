"""Text from keys, files and standard input, and documents to read."""

import io
import json
from types import SimpleNamespace

import pytest

from melodi_plugin.data.documents import BrokenDocument, Document
from melodi_plugin.serving.prompts import (
  open_documents_of,
  prompt_of,
  read_documents,
  read_text,
  skipped_list,
)


@pytest.fixture(name="given")
def _given(monkeypatch):
  """Sets what standard input holds."""

  def give(raw: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(raw)))

  return give


def _prompt(*keys, prompt="I love to", file=""):
  return prompt_of(SimpleNamespace(prompt=prompt, melodi_prompt_file=file), keys)


def _config(documents, **keys):
  defaults = dict(eval_data_columns=["text"], melodi_id_field="id", melodi_max_document_bytes=99)
  defaults |= dict(melodi_skip_broken_documents=False, melodi_documents=documents)
  return SimpleNamespace(**(defaults | keys))


def test_the_prompt_that_nobody_asked_for_is_none(monkeypatch):
  assert _prompt() is None
  assert _prompt("prompt=I love to") == "I love to"
  assert _prompt(prompt="To be") == "To be"  # of a YAML file
  assert _prompt("prompt=", prompt="") == ""
  monkeypatch.setenv("M_PROMPT", "I love to")
  assert _prompt() == "I love to"


def test_two_prompts_are_refused(tmp_path):
  (tmp_path / "a.txt").write_text("To be")
  assert _prompt(file=str(tmp_path / "a.txt")) == "To be"
  with pytest.raises(ValueError, match="prompt and melodi_prompt_file are both given"):
    _prompt("prompt=x", prompt="x", file=str(tmp_path / "a.txt"))


def test_files_and_standard_input_are_read_whole(tmp_path, given):
  text = "Ay,\r\nthere's the rub: é中😀\n" * 9999
  (tmp_path / "long.txt").write_bytes(text.encode())
  given(text.encode())
  assert read_text(str(tmp_path / "long.txt")) == text == read_text("-")
  assert read_text(f"file://{tmp_path}/long.txt") == text


def test_text_that_cannot_be_read_is_a_sentence(tmp_path, given):
  (tmp_path / "latin.txt").write_bytes(b"caf\xe9 noir")
  with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 \(byte 3\); save it as UTF-8\."):
    read_text(str(tmp_path / "latin.txt"))
  given(b"\xff")
  with pytest.raises(ValueError, match=r"standard input is not UTF-8 \(byte 0\)"):
    read_text("-")
  with pytest.raises(ValueError, match=r"none\.txt cannot be read \(No such file or directory\)"):
    read_text(str(tmp_path / "none.txt"))
  with pytest.raises(ValueError, match=r"cannot be read \(Is a directory\); name a file of text"):
    read_text(str(tmp_path))


def test_documents_are_named_after_their_files(tmp_path):
  (tmp_path / "plays").mkdir()
  for name in ("plays/b.txt", "plays/a.txt", "notes.txt"):
    (tmp_path / name).write_text(f"text of {name}")
  (tmp_path / "more.jsonl").write_text('{"text": "one"}\n{"text": "two", "id": "second"}\n')
  pattern = f"{tmp_path}/notes.txt, {tmp_path}/plays/*.txt,{tmp_path}/*.jsonl,"
  documents = [document for _, document in read_documents(open_documents_of(_config(pattern)))]
  assert [document.id for document in documents] == [
    "more:1",
    "second",
    "notes.txt",
    "plays/a.txt",
    "plays/b.txt",
  ]
  assert documents[3].text == "text of plays/a.txt"


def test_standard_input_is_one_document(given):
  given(b"To be\n")
  source = open_documents_of(_config(" - "))
  assert list(read_documents(source)) == [(0, Document("stdin", "To be\n"))]
  assert (source.name(0), source.sizes().tolist()) == ("standard input", [6])
  given(b"x" * 100)
  with pytest.raises(BrokenDocument, match=r"standard input is too large \(100 bytes"):
    open_documents_of(_config("-"))
  given(b" \n")
  with pytest.raises(BrokenDocument, match="standard input has an empty 'text'"):
    open_documents_of(_config("-"))


@pytest.mark.parametrize(
  ("documents", "problem"),
  [
    (" , ", "melodi_documents names nothing to read"),
    ("-,a.txt", "names standard input .-. among others"),
    ("no/such/*.txt", "No .jsonl, .txt, .parquet or .array_record file matches"),
  ],
)
def test_documents_that_are_none_are_a_sentence(documents, problem):
  with pytest.raises(ValueError, match=problem):
    open_documents_of(_config(documents))


def test_broken_documents_stop_or_are_listed(tmp_path):
  (tmp_path / "a.txt").write_text("good")
  (tmp_path / "b.txt").write_bytes(b"\xff")
  (tmp_path / "c.txt").write_text("cut later")
  pattern = f"{tmp_path}/*.txt"
  with pytest.raises(BrokenDocument, match=r"b\.txt is not UTF-8"):
    open_documents_of(_config(pattern))

  config = _config(pattern, melodi_skip_broken_documents=True)
  source = open_documents_of(config)
  assert skipped_list(_config(pattern), source, str(tmp_path)) is None
  on_broken = skipped_list(config, source, str(tmp_path / "out"))
  (tmp_path / "c.txt").write_text("cut")
  with pytest.raises(BrokenDocument, match="has changed"):
    list(read_documents(source))
  assert [(i, d.id) for i, d in read_documents(source, on_broken)] == [(0, "a.txt")]
  lines = (tmp_path / "out" / "skipped_documents.jsonl").read_text().splitlines()
  assert [json.loads(line)["where"][-5:] for line in lines] == ["b.txt", "c.txt"]
