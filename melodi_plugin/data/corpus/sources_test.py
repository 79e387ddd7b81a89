"""Folders and files of records as documents, and the command line that builds from them."""

import json

import pytest

from melodi_plugin.cli.main import main
from melodi_plugin.data.corpus.plan import Record
from melodi_plugin.data.corpus.sources import Reading, Sources
from melodi_plugin.data.documents import BrokenDocument


@pytest.fixture(name="code")
def _code(tmp_path):
  root = tmp_path / "code"
  for name, text in {
    "setup.py": "setup()\n",
    "alpha/__init__.py": "",
    "alpha/a.py": "a = 1\n",
    "alpha/deep/b.py": "b = 2",
    "beta/c.py": "c = 3\n" * 20,
    "beta/d.py": "d = 4\n" * 20,
    "beta/notes.txt": "notes\n",
    ".git/hidden.py": "hidden\n",
    "alpha/__pycache__/e.py": "cached\n",
  }.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
  return root


def _jsonl(path, *records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(path)


def test_file_is_a_document_and_its_first_folder_is_the_group(code):
  records = list(Sources([str(code)], Reading(suffixes=(".py",)))())
  assert [record.id for record in records] == [
    "alpha/__init__.py",
    "alpha/a.py",
    "alpha/deep/b.py",
    "beta/c.py",
    "beta/d.py",
    "setup.py",
  ]
  assert [record.group for record in records] == ["alpha"] * 3 + ["beta"] * 2 + ["setup.py"]
  assert records[2].text == "b = 2"


def test_folder_is_a_document_as_long_as_it_fits(code):
  reading = Reading(suffixes=(".py",), document="folder", max_bytes=200)
  assert list(Sources([str(code)], reading)()) == [
    Record("setup.py", "setup()\n", "setup.py"),
    Record("alpha", "a = 1\n\nb = 2\n", "alpha"),
    Record("beta/c.py", "c = 3\n" * 20, "beta"),
    Record("beta/d.py", "d = 4\n" * 20, "beta"),
  ]
  whole = {r.id: r for r in Sources([str(code)], Reading((".py",), "folder", max_bytes=2000))()}
  assert set(whole) == {"setup.py", "alpha", "beta"}
  assert whole["beta"].text == "c = 3\n" * 20 + "\n" + "d = 4\n" * 20


def test_several_folders_keep_their_documents_apart(code, tmp_path):
  other = tmp_path / "other"
  (other / "alpha").mkdir(parents=True)
  (other / "alpha" / "a.py").write_text("x\n")
  found = {r.id: r.group for r in Sources([str(code), str(other)], Reading((".py",)))()}
  assert found["code/alpha/a.py"] == "code/alpha"
  assert found["other/alpha/a.py"] == "other/alpha"


def test_files_that_cannot_be_documents_are_named(code):
  (code / "bad.py").write_bytes(b"\xff")
  (code / "large.py").write_text("x" * 1000)
  broken = [
    str(item)
    for item in Sources([str(code)], Reading((".py",), max_bytes=900))()
    if isinstance(item, BrokenDocument)
  ]
  assert len(broken) == 2
  assert "bad.py is not UTF-8 (byte 0)" in broken[0]
  assert "large.py has 1,000 bytes; raise --max-document-bytes" in broken[1]


def test_group_of_a_record_is_its_field_else_its_folder_else_itself(tmp_path):
  path = _jsonl(
    tmp_path / "a.jsonl",
    {"id": "x/1", "text": "one", "group": "g"},
    {"id": "x/2", "text": "two"},
    {"id": "3", "text": "three"},
  )
  assert [record.group for record in Sources([path], Reading())()] == ["g", "x", "3"]
  by_folder = Sources([path], Reading(group_by="folder"))
  assert [record.group for record in by_folder()] == ["x", "x", "3"]
  by_document = Sources([path], Reading(group_by="document"))
  assert [record.group for record in by_document()] == ["x/1", "x/2", "3"]
  with pytest.raises(ValueError, match="'x/2' has no field 'group'; name another"):
    list(Sources([path], Reading(group_by="field"))())


def test_fields_of_records_may_have_other_names(tmp_path):
  path = _jsonl(tmp_path / "a.jsonl", {"name": "n", "body": "text", "work": "w"})
  reading = Reading(text_field="body", id_field="name", group_field="work")
  assert list(Sources([path], reading)()) == [Record("n", "text", "w")]


def test_parquet_is_read_with_its_groups(tmp_path):
  import pyarrow as pa
  import pyarrow.parquet as pq

  table = pa.table({"id": ["a", "b"], "text": ["one", "two"], "group": ["g", None]})
  pq.write_table(table, tmp_path / "a.parquet")
  records = list(Sources([str(tmp_path / "a.parquet")], Reading())())
  assert records == [Record("a", "one", "g"), Record("b", "two", "b")]


def _many(tmp_path, *more):
  records = [
    {"id": f"d{i}", "text": f"Number {i} of many.\n" * 50, "group": f"g{i // 2}"} for i in range(60)
  ]
  return _jsonl(tmp_path / "many.jsonl", *records, *more)


def test_command_builds_a_corpus_and_says_what_is_in_it(tmp_path, capsys):
  out = tmp_path / "corpus"
  command = [
    "data",
    "build",
    str(out),
    _many(tmp_path),
    "--train-tokenizer",
    "300",
    "--shard-bytes=9999",
  ]
  assert main(command) == 0
  shown = capsys.readouterr().out
  assert "train" in shown and "256 to 512" in shown
  manifest = json.loads((out / "manifest.json").read_text())
  assert [s["documents"] for s in manifest["splits"].values()] == [48, 4, 8]
  assert [s["groups"] for s in manifest["splits"].values()] == [24, 2, 4]
  assert manifest["corpus"] == "corpus"
  assert manifest["request"]["sources"][0]["files"] == 1
  assert manifest["command"].startswith("melodi data build ")
  assert (out / "lengths.png").read_bytes().startswith(b"\x89PNG")
  assert main(command) == 0
  _many(tmp_path, {"id": "new", "text": "A new one."})
  assert main(command) == 2
  assert "is not a complete corpus 'corpus' as asked for" in capsys.readouterr().err


def test_command_stops_at_a_broken_record_or_skips_it(tmp_path, capsys):
  source = _many(tmp_path, {"id": "broken", "text": 3})
  command = ["data", "build", str(tmp_path / "out"), source, "--train-tokenizer", "300"]
  assert main(command) == 2
  error = capsys.readouterr().err
  assert "many.jsonl:61" in error and "--skip-broken" in error
  assert not (tmp_path / "out").exists()
  assert main([*command, "--skip-broken"]) == 0
  assert "Left out as broken: 1 " in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["nowhere.jsonl", "--train-tokenizer", "300"], "nowhere.jsonl"),
    ([".", "--train-tokenizer", "300"], "holds no file that ends in .txt, .md, .py"),
    (["a.py", "--train-tokenizer", "300"], "a.py"),
    (["a.jsonl", "--tokenizer", "nowhere"], "There is no tokenizer nowhere"),
  ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, message):
  monkeypatch.chdir(tmp_path)
  assert main(["data", "build", "out", *arguments]) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "arguments",
  [
    [],
    ["a.jsonl"],
    ["a.jsonl", "--train-tokenizer", "0"],
    ["a.jsonl", "--train-tokenizer", "300", "--split", "0.5,0.2,0.2"],
    ["a.jsonl", "--train-tokenizer", "300", "--tokenizer", "x"],
  ],
)
def test_wrong_usage_ends_with_status_2(arguments, capsys):
  assert main(["data", "build", "out", *arguments]) == 2
  said = capsys.readouterr().err
  assert said.startswith("error: ") and said.count("\n") == 1
