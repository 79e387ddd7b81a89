"""Corpora by name, from small files in exactly the published layouts; no network."""

import bz2
import dataclasses
import gzip
import json
import lzma

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from melodi_plugin.cli.main import main
from melodi_plugin.data.corpus import published
from melodi_plugin.data.corpus.split import split_of
from melodi_plugin.data.documents import open_documents
from melodi_plugin.data.files import match_files

TRAIN = ["--train-tokenizer", "300", "--character-coverage", "0.99"]


def _text(i, sentences=40):
  return "".join(f"Sentence {j} of book {i} says little.\n" for j in range(sentences))


def _lines(*records):
  return "".join(json.dumps(record) + "\n" for record in records).encode()


def _zst(raw):
  sink = pa.BufferOutputStream()
  with pa.CompressedOutputStream(sink, "zstd") as stream:
    stream.write(raw)
  return sink.getvalue().to_pybytes()


def _pg19(put):
  for split, books in (("train", range(6)), ("validation", [50]), ("test", [70, 71])):
    for book in books:
      put(f"{split}/{book}.txt", _text(book).encode())
  put("metadata.csv", b"1,A Book,1900,http://www.gutenberg.org/ebooks/1\n")


def _arxiv(put):
  def record(i, config):
    return {"text": _text(i), "meta": {"config": config, "file": f"1812.{i:05}/v1 arxiv/main.tex"}}

  for i in range(2):
    put(
      f"train/proofpile_train_{i}.jsonl.gz",
      gzip.compress(_lines(record(2 * i, "arxiv"), record(2 * i + 1, "stack-exchange"))),
    )
  put("dev/proofpile_dev.jsonl.gz", gzip.compress(_lines(record(5, "wiki"), record(6, "arxiv"))))
  put("test/proofpile_test.jsonl.gz", gzip.compress(_lines(record(7, "arxiv"))))


def _c4(put):
  def page(i, sentences):
    return {"text": _text(i, sentences), "timestamp": "2019-04-25T12:57:54Z", "url": "https://a.b/"}

  long, short, tiny = (page(i, n) for i, n in ((0, 40), (1, 20), (2, 1)))
  put("c4-train.00000-of-01024.json.gz", gzip.compress(_lines(long, short, tiny, page(3, 41))))
  put("c4-train.00001-of-01024.json.gz", gzip.compress(_lines(tiny, tiny)))
  put("c4-validation.00000-of-00008.json.gz", gzip.compress(_lines(short, page(0, 40))))


def _github(put, folder):
  rows = [
    {"code": _text(i), "repo_name": f"owner/repo{i // 3}", "path": f"a{i % 3}.py", "size": 3}
    for i in range(60)
  ]
  for shard in range(2):
    name = f"train-{shard:05}-of-01126.parquet"
    put(name, b"")
    pq.write_table(pa.Table.from_pylist(rows[shard::2]), folder / name)


@pytest.fixture(name="source")
def _source(tmp_path):
  """A folder, and what puts a file into it."""
  folder = tmp_path / "source"

  def put(name, raw):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(raw)

  return folder, put


def _make(words, tmp_path, *options):
  return main([*words, str(tmp_path / "out"), *TRAIN, *map(str, options)])


def _manifest(tmp_path):
  return json.loads((tmp_path / "out" / "manifest.json").read_text())


def _read(tmp_path, split):
  return list(open_documents(str(tmp_path / "out" / f"{split}-*.array_record")))


def test_pg19_keeps_its_splits_and_its_words(tmp_path, source, capsys):
  folder, put = source
  _pg19(put)
  put("test/72.txt", _text(0).encode())  # the text of a book of training, as published
  assert _make(["data", "pg19"], tmp_path, "--from", folder) == 0
  assert "test: 840 words here, 6,966,499 as published" in capsys.readouterr().out
  assert [d.id for d in _read(tmp_path, "test")] == ["test/70.txt", "test/71.txt", "test/72.txt"]
  assert len(_read(tmp_path, "train")) == 6 and len(_read(tmp_path, "validation")) == 1
  manifest = _manifest(tmp_path)
  assert manifest["published"]["words"]["test"] == 6_966_499
  texts = [document.text for document in _read(tmp_path, "test")]
  assert manifest["splits"]["test"]["words"] == sum(len(text.split()) for text in texts)


def test_published_files_are_copied_once_and_may_be_removed_afterwards(
  tmp_path, monkeypatch, capsys
):
  system = fsspec.filesystem("memory")
  _pg19(lambda name, raw: system.pipe(f"/gutenberg/{name}", raw))
  corpus = published.CORPORA["pg19"]
  address = dataclasses.replace(corpus, address="memory://gutenberg")
  monkeypatch.setitem(published.CORPORA, "pg19", address)
  copies = tmp_path / "out-published"
  (copies / "train").mkdir(parents=True)
  (copies / "train/0.txt").write_bytes(_text(0).encode())  # of an earlier run
  system.rm("/gutenberg/train/0.txt")
  system.pipe("/gutenberg/train/0.txt", _text(0).upper().encode())  # as large, so not copied again
  assert _make(["data", "pg19"], tmp_path) == 0
  assert sum(path.is_file() for path in copies.rglob("*")) == 9
  assert _read(tmp_path, "train")[0].text == _text(0)
  system.rm("/gutenberg", recursive=True)
  assert _make(["data", "pg19"], tmp_path) == 0  # it is there
  assert _make(["data", "pg19"], tmp_path, "--min-tokens=5") == 2
  assert "is not a complete corpus 'pg19' as asked for" in capsys.readouterr().err


def test_arxiv_math_is_the_part_of_proof_pile_from_arxiv(tmp_path, source):
  folder, put = source
  _arxiv(put)
  assert _make(["data", "arxiv-math"], tmp_path, "--from", folder) == 0
  found = {split: _read(tmp_path, split) for split in ("train", "validation", "test")}
  assert [d.text for d in found["train"]] == [_text(0), _text(2)]
  assert [d.text for d in found["validation"]] == [_text(6)]
  assert [d.id for d in found["test"]] == ["test/proofpile_test:1"]


def test_c4_keeps_the_long_pages_and_those_that_are_repeated_in_validation(
  tmp_path, source, capsys
):
  folder, put = source
  _c4(put)
  assert _make(["data", "c4-4k"], tmp_path, "--from", folder, "--min-tokens=400") == 0
  assert "Left out as shorter than 400 tokens: 5." in capsys.readouterr().out
  assert [d.text for d in _read(tmp_path, "train")] == [_text(0, 40), _text(3, 41)]
  assert [d.text for d in _read(tmp_path, "validation")] == [_text(0, 40)]
  splits = _manifest(tmp_path)["splits"]
  assert splits["test"]["documents"] == 0 and splits["train"]["tokens"] > 800
  assert _make(["data", "c4-4k"], tmp_path / "b", "--from", folder) == 2
  sentence = "No document of the split train has 4,096 tokens; lower --min-tokens."
  assert capsys.readouterr().err.endswith(f"error: {sentence}\n")


def test_split_that_has_no_long_document_is_named(tmp_path, source, capsys):
  folder, put = source
  _pg19(put)  # books of 1430 bytes and 750 tokens
  put("train/9.txt", _text(9, 80).encode())
  assert _make(["data", "pg19"], tmp_path, "--from", folder, "--min-tokens=1000") == 2
  sentence = "No document of the split validation has 1,000 tokens; lower --min-tokens."
  assert capsys.readouterr().err.endswith(f"error: {sentence}\n")
  assert not (tmp_path / "out").exists()


def test_github_code_is_split_by_repository(tmp_path, source):
  folder, put = source
  _github(put, folder)
  assert _make(["data", "github-code"], tmp_path, "--from", folder) == 0
  splits = _manifest(tmp_path)["splits"]
  assert sum(split["groups"] for split in splits.values()) == 20
  assert [split["documents"] for split in splits.values()] == [48, 3, 9]


@pytest.mark.parametrize(
  ("name", "make"), [("pg19", _pg19), ("arxiv-math", _arxiv), ("c4-4k", _c4)]
)
def test_missing_split_is_one_sentence(name, make, tmp_path, source, capsys):
  folder, put = source
  make(lambda file, raw: "validation" in file or "dev" in file or put(file, raw))
  assert _make(["data", name], tmp_path, "--from", folder) == 2
  said = capsys.readouterr().err
  assert f"is not {name} as published, for nothing in it matches" in said
  assert said.startswith("error: ") and said.count("\n") == 1


def test_no_network_is_one_sentence(tmp_path, monkeypatch, capsys):
  def offline(*_, **__):
    raise OSError("Name or service not known")

  monkeypatch.setattr(fsspec.core, "url_to_fs", offline)
  assert _make(["data", "c4-4k"], tmp_path) == 2
  said = capsys.readouterr().err
  assert said == (
    "error: hf://datasets/allenai/c4/en/c4-train.*.json.gz cannot be listed (Name or service not "
    "known); if this machine is offline, copy what is in hf://datasets/allenai/c4/en here by other "
    "means and name its folder with --from.\n"
  )
  assert main(["data", "pg19", str(tmp_path / "out"), "--tokenizer", "gs://a/b.model"]) == 2
  assert "gs://a/b.model cannot be read as a sentencepiece" in capsys.readouterr().err


def test_file_that_comes_cut_is_not_taken_for_whole(tmp_path, monkeypatch, capsys):
  system = fsspec.filesystem("memory")
  system.pipe("/cut/c4-train.0.json.gz", b"12345")
  (file,) = match_files("memory://cut/c4-train.0.json.gz")
  monkeypatch.setattr(type(system), "get_file", lambda self, a, b: open(b, "wb").close())
  with pytest.raises(ValueError, match="came with 0 bytes instead of 5; the same command goes on"):
    published.download([file], tmp_path)
  assert not (tmp_path / file.name).exists()


def test_remote_tokenizer_is_written_beside_the_documents(tmp_path, source):
  folder, put = source
  _pg19(put)
  assert _make(["data", "pg19"], tmp_path, "--from", folder) == 0
  model = (tmp_path / "out" / "tokenizer.model").read_bytes()
  fsspec.filesystem("memory").pipe("/vocabulary/spiece.model", model)
  out = tmp_path / "other"
  given = ["--from", str(folder), "--tokenizer", "memory://vocabulary/spiece.model"]
  assert main(["data", "pg19", str(out), *given]) == 0
  assert (out / "tokenizer.model").read_bytes() == model


@pytest.mark.parametrize(
  ("end", "pack"),
  [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress), ("zst", _zst)],
)
def test_every_source_may_be_compressed(end, pack, tmp_path, source, capsys):
  folder, put = source
  for name in ("a/train", "a/validation", "b/test"):
    put(f"{name}.jsonl.{end}", pack(_lines(*({"text": _text(name + str(i))} for i in range(3)))))
  put(f"more/train/x.txt.{end}", pack(_text("x").encode()))
  sources = [f"{folder}/a;{folder}/b", str(folder / "more"), "--suffixes", f".txt.{end}"]
  command = ["data", "build", str(tmp_path / "out"), *sources[:1], *sources[1:], *TRAIN]
  assert main([*command, "--keep-splits"]) == 0
  expected = {"train": 4, "validation": 3, "test": 3}
  assert {s: v["documents"] for s, v in _manifest(tmp_path)["splits"].items()} == expected
  assert {d.text for d in _read(tmp_path, "train")} >= {_text("a/train2"), _text("x")}
  put(f"b/test.jsonl.{end}", pack(_lines({"text": _text(1) * 9}))[:-9])
  assert main(["data", "build", str(tmp_path / "cut"), *command[3:], "--keep-splits"]) == 2
  assert f"test.jsonl.{end} cannot be read" in capsys.readouterr().err


def test_file_of_no_split_is_named(tmp_path, source, capsys):
  folder, put = source
  put("train/a.txt", b"a")
  put("b.txt", b"b")
  command = ["data", "build", str(tmp_path / "out"), str(folder), *TRAIN, "--keep-splits"]
  assert main(command) == 2
  assert f"b.txt in {folder} names no split; name the folder" in capsys.readouterr().err
  assert main([*command, "--document", "folder"]) == 2
  assert "use --document file" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("train/10.txt", "train"),
    ("dev/proofpile_test.jsonl.gz", "validation"),
    ("en/c4-validation.00000-of-00008.json.gz", "validation"),
    ("valid/train/1.txt", "train"),
    ("val.jsonl.zst", "validation"),
    ("trains/1.txt", ""),
  ],
)
def test_split_is_that_of_the_nearest_folder_else_of_the_file(name, split):
  assert split_of(name) == split
