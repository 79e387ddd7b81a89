"""A corpus of files as one sequence: order, ids, what is left out, threads, pickles, memory."""

import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from melodi_plugin.data import documents
from melodi_plugin.data.documents import BrokenDocument, Document, check_ids, open_documents
from melodi_plugin.testing.files.records import write_array_record, write_jsonl


def _corpus(folder):
  """One file of every format; the ids tell the order."""
  write_jsonl(folder / "a.jsonl", {"text": "0"}, b"", {"text": "1", "id": "one"})
  write_array_record(folder / "b.array_record", {"text": "2"}, {"text": "3", "id": "three"})
  (folder / "c.txt").write_bytes(b"4\r\n")
  pq.write_table(pa.table({"text": ["5", "6"]}), folder / "d.parquet")
  return folder


_IDS = ["a:1", "one", "b:1", "three", "c.txt", "d:1", "d:2"]


def test_formats_are_joined_in_the_order_of_the_paths(tmp_path):
  source = open_documents(str(_corpus(tmp_path)))
  assert [document.id for document in source] == _IDS
  assert [document.text for document in source] == ["0", "1", "2", "3", "4\r\n", "5", "6"]
  assert source[-1] == source[np.int64(6)] == Document("d:2", "6")
  assert [source.name(i) for i in (1, 3, 4, -1)] == [
    f"{tmp_path}/a.jsonl:3",
    f"{tmp_path}/b.array_record, record 2",
    f"{tmp_path}/c.txt",
    f"{tmp_path}/d.parquet, record 2",
  ]
  for outside in (7, -8):
    with pytest.raises(IndexError, match="is outside of 7 documents"):
      source[outside]
  assert source.broken == ()
  sizes = source.sizes()
  assert (sizes.dtype, sizes[[0, 4, 5]].tolist()) == (np.int64, [14, 3, 1])
  assert (sizes > 0).all()


def test_text_is_read_as_it_is_and_ids_can_be_numbers(tmp_path):
  path = write_jsonl(
    tmp_path / "a.jsonl", {"text": "zwei\n\r\nü\u0000"}, {"text": "three", "id": 7}
  )
  first, second = open_documents(str(path))
  assert (first, second) == (Document("a:1", "zwei\n\r\nü\u0000"), Document("7", "three"))


def test_glob_and_joined_patterns_read_each_file_once(tmp_path):
  for name in ("x/1.txt", "y/1.txt", "y/2.txt"):
    write_jsonl(tmp_path / name, name.encode())
  one = open_documents(f"{tmp_path}/*/1.txt")
  assert [document.id for document in one] == ["x/1.txt", "y/1.txt"]
  both = open_documents(f"{tmp_path}/y/2.txt; {tmp_path}/*/1.txt;{tmp_path}/y/1.txt")
  assert [document.text for document in both] == ["x/1.txt\n", "y/1.txt\n", "y/2.txt\n"]


def test_source_can_be_pickled_after_reading_and_is_small(tmp_path):
  _corpus(tmp_path)
  write_jsonl(tmp_path / "e.jsonl", *({"text": "x" * 1000} for _ in range(1000)))
  source = open_documents(str(tmp_path))
  documents_read = list(source)
  raw = pickle.dumps(source)
  assert len(raw) < 40 * len(source)
  assert list(pickle.loads(raw)) == documents_read


def test_many_threads_read_at_once(tmp_path):
  _corpus(tmp_path)
  texts = [str(i) * 50 for i in range(300)]
  pq.write_table(pa.table({"text": texts}), tmp_path / "e.parquet", row_group_size=70)
  source = pickle.loads(pickle.dumps(open_documents(str(tmp_path))))
  order = np.random.default_rng(0).permutation(len(source)).tolist()
  with ThreadPoolExecutor(8) as pool:
    read = dict(zip(order, pool.map(source.__getitem__, order), strict=True))
  assert [read[i] for i in range(len(source))] == list(source)


def test_remote_files_are_read(request):
  system = fsspec.filesystem("memory")
  request.addfinalizer(lambda: system.rm("/corpus", recursive=True))
  system.pipe("/corpus/a.jsonl", b'{"text": "0"}\n{"text": "1"}\n{')
  system.pipe("/corpus/b.txt", b"2")
  system.pipe("/corpus/c.array_record", b"x")
  with system.open("/corpus/d.parquet", "wb") as stream:
    pq.write_table(pa.table({"text": ["3", "4"]}), stream)
  source = open_documents("memory://corpus", skip_broken=True)
  source = pickle.loads(pickle.dumps(source))
  assert [document.id for document in source] == ["a:1", "a:2", "b.txt", "d:1", "d:2"]
  assert [document.text for document in source] == ["0", "1", "2", "3", "4"]
  line, file = map(str, source.broken)
  assert line.startswith("memory:///corpus/a.jsonl:3 is not valid JSON")
  assert file.startswith("memory:///corpus/c.array_record is an ArrayRecord file, which can only")
  system.rm("/corpus/b.txt")
  with pytest.raises(BrokenDocument, match=r"b\.txt cannot be read"):
    source[2]


def test_fingerprint_is_of_names_and_counts_not_of_the_place(tmp_path):
  def fingerprint(place, **options):
    return open_documents(str(tmp_path / place), **options).fingerprint()

  for place in ("here", "there"):
    (tmp_path / place).mkdir()
    _corpus(tmp_path / place)
  assert fingerprint("here") == fingerprint("there")
  before = fingerprint("here")
  with (tmp_path / "here/a.jsonl").open("a") as file:
    file.write('{"text": "repeated", "id": "one"}\n')
  assert fingerprint("here", skip_broken=True) == before
  with (tmp_path / "here/a.jsonl").open("a") as file:
    file.write('{"text": "new"}\n')
  changed = fingerprint("here", skip_broken=True)
  (tmp_path / "there/a.jsonl").rename(tmp_path / "there/a2.jsonl")
  assert len({before, changed, fingerprint("there")}) == 3


def test_repeated_ids_are_found_when_files_are_opened(tmp_path):
  write_jsonl(tmp_path / "a.jsonl", {"text": "0", "id": "x"}, b"{", {"text": "1", "id": "x"})
  pq.write_table(pa.table({"text": ["2", "3"], "id": ["x", "y"]}), tmp_path / "b.parquet")
  (tmp_path / "c.txt").write_text("4")
  write_jsonl(tmp_path / "d.jsonl", {"text": "5", "id": "c.txt"}, {"text": "6"})
  source = open_documents(str(tmp_path), skip_broken=True)
  assert [d[:2] for d in source] == [("x", "0"), ("y", "3"), ("c.txt", "4"), ("d:2", "6")]
  assert source.sizes().tolist() == [25, 1, 1, 14]
  assert source.name(1) == f"{tmp_path}/b.parquet, record 2"
  broken = [str(error).replace(f"{tmp_path}/", "") for error in source.broken]
  assert broken[1:] == [
    "a.jsonl:3 has the id 'x' of a.jsonl:1; give every document its own id.",
    "b.parquet, record 1 has the id 'x' of a.jsonl:1; give every document its own id.",
    "d.jsonl:1 has the id 'c.txt' of c.txt; give every document its own id.",
  ]
  write_jsonl(tmp_path / "a.jsonl", {"text": "0", "id": "x"})
  with pytest.raises(BrokenDocument, match=r"b.parquet, record 1 has the id 'x' of .*a.jsonl:1;"):
    open_documents(str(tmp_path))


def test_repeated_ids_in_array_records_are_found_by_check_ids(tmp_path):
  write_jsonl(tmp_path / "a.jsonl", {"text": "0", "id": "x"})
  assert check_ids(open_documents(str(tmp_path))) == ()
  write_array_record(
    tmp_path / "b.array_record", {"text": "1", "id": "y"}, {"text": "2", "id": "x"}
  )
  source = open_documents(str(tmp_path))
  with pytest.raises(BrokenDocument, match=r"b.array_record, record 2 has the id 'x' of .*:1;"):
    check_ids(source)
  write_array_record(tmp_path / "c.array_record", {"body": "3"}, {"text": "4", "id": "z"})
  source = open_documents(str(tmp_path))
  assert [error.where for error in check_ids(source, skip_broken=True)] == [
    f"{tmp_path}/b.array_record, record 2",
    f"{tmp_path}/c.array_record, record 1",
  ]
  with pytest.raises(BrokenDocument, match=r"c.array_record, record 1 has no 'text' field"):
    check_ids(open_documents(f"{tmp_path}/c.*"))


@pytest.mark.parametrize(
  ("raw", "skip_broken", "message"),
  [
    (b"\n", False, r"The files of '.*' hold no document; add records with a text\."),
    (b"", True, r"The files of '.*' hold no document"),
    (b"{\n[", True, r"There is no document left of '.*', 2 are broken; the first: .*:1 is not"),
  ],
)
def test_corpus_without_documents_is_refused(tmp_path, raw, skip_broken, message):
  (tmp_path / "a.jsonl").write_bytes(raw)
  with pytest.raises(ValueError, match=message):
    open_documents(str(tmp_path), skip_broken=skip_broken)


def test_long_scan_shows_its_progress_on_stderr(tmp_path, monkeypatch, capsys):
  write_jsonl(tmp_path / "a.jsonl", *({"text": "x"} for _ in range(10)))
  open_documents(str(tmp_path))
  assert capsys.readouterr() == ("", "")
  monkeypatch.setattr(documents, "_SHOW_AFTER_SECONDS", -1.0)
  monkeypatch.setattr(documents, "_REDRAW_SECONDS", -1.0)
  monkeypatch.setenv("FORCE_COLOR", "1")
  open_documents(str(tmp_path))
  out, err = capsys.readouterr()
  assert out == ""
  assert "Scanning documents" in err
  assert "140/140 bytes" in err


def test_gigabyte_of_one_document_is_refused_within_little_memory(tmp_path):
  for name in ("a.txt", "b.jsonl"):
    with (tmp_path / name).open("wb") as file:
      file.truncate(2**30)
  write_jsonl(tmp_path / "c.jsonl", {"text": "fine"})
  script = """
    import re, resource, sys
    from melodi_plugin.data.documents import open_documents

    used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
    source = open_documents(sys.argv[1], skip_broken=True)
    print(list(source), *source.broken, sep="\\n")
  """
  command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
  ran = subprocess.run(command, capture_output=True, text=True, check=False)
  assert ran.returncode == 0, ran.stderr
  found, text, line = ran.stdout.replace(f"{tmp_path}/", "").splitlines()
  assert found == "[Document(id='c:1', text='fine', others=())]"
  assert text.startswith("a.txt is too large (1,073,741,824 bytes, and a text may have 16,777,216)")
  assert line.startswith("b.jsonl:1 is too large (1,073,741,824 bytes, and a text may have")


def test_parquet_holds_one_batch_in_memory_not_a_row_group(tmp_path):
  table = pa.table({"text": [str(i) + "x" * 2**20 for i in range(100)]})
  pq.write_table(table, tmp_path / "a.parquet", write_batch_size=1, use_dictionary=False)
  script = """
    import sys
    import pyarrow as pa
    from melodi_plugin.data.documents import open_documents

    source = open_documents(sys.argv[1])
    print(source[99].id, source.sizes().sum(), pa.default_memory_pool().max_memory())
  """
  command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
  ran = subprocess.run(command, capture_output=True, text=True, check=False)
  assert ran.returncode == 0, ran.stderr
  name, size, peak = ran.stdout.split()
  assert (name, int(size)) == ("a:100", 100 * 2**20 + 190)
  assert int(peak) < 32 * 2**20
