"""Patterns: what they match, under which names, and that nothing is left out in silence."""

import os

import fsspec
import pytest

from melodi_plugin.data.files import File, match_files


def _make(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(name)


def _names(pattern):
  return [file.name for file in match_files(str(pattern))]


def test_folder_is_searched_with_subfolders_for_the_known_formats(tmp_path):
  known = ["a.jsonl", "b/c.txt", "b/d/e.parquet", "f.array_record", "g.arrayrecord-00001-of-00002"]
  known += ["h.json.gz", "i.jsonl.zst", "j.txt.bz2", "k.jsonl-00000-of-00002.xz"]
  _make(tmp_path, *known, "x.json", "y.parquet.gz", "txt", ".hidden.txt", ".cache/z.txt")
  assert _names(tmp_path) == known


@pytest.mark.parametrize(
  ("name", "suffix", "stem"),
  [
    ("a/b.jsonl", ".jsonl", "a/b"),
    ("a.b.txt-00000-of-00010", ".txt", "a.b-00000-of-00010"),
    ("a-00000-of-00010.array_record", ".array_record", "a-00000-of-00010"),
    ("a.arrayrecord-00000-of-00010", ".arrayrecord", "a-00000-of-00010"),
    ("a.parquet", ".parquet", "a"),
    ("c4-train.00000-of-01024.json.gz", ".jsonl", "c4-train.00000-of-01024"),
    ("a.jsonl-00000-of-00010.zst", ".jsonl", "a-00000-of-00010"),
    ("a.txt.xz", ".txt", "a"),
    ("a.csv", "", "a.csv"),
  ],
)
def test_format_and_stem_leave_the_shard_suffix(name, suffix, stem):
  assert (File("/x", name).suffix, File("/x", name).stem) == (suffix, stem)


def test_names_begin_below_what_all_parts_have_in_common(tmp_path):
  _make(tmp_path, "a/1.txt", "b/1.txt", "b/c/1.txt")
  assert _names(f"{tmp_path}/a") == ["1.txt"]
  assert _names(f"{tmp_path}/a/1.txt") == ["1.txt"]
  assert _names(f"{tmp_path}/*/1.txt") == ["a/1.txt", "b/1.txt"]
  assert _names(f"{tmp_path}/b; {tmp_path}/a/;{tmp_path}/b/1.txt") == [
    "a/1.txt",
    "b/1.txt",
    "b/c/1.txt",
  ]


def test_home_and_the_working_folder_are_understood(tmp_path, monkeypatch):
  _make(tmp_path, "a/1.txt")
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  for pattern in ("~/a", "a", "./a/*.txt", f"file://{tmp_path}/a"):
    (file,) = match_files(pattern)
    assert file == File(str(tmp_path / "a/1.txt"), "1.txt", size=7)


def test_folder_with_the_name_of_a_file_is_searched_but_other_folders_of_a_glob_are_not(tmp_path):
  _make(tmp_path, "t.parquet/part-0.parquet", "other/1.txt")
  assert _names(f"{tmp_path}/*") == ["t.parquet/part-0.parquet"]


def test_links_are_followed_once_and_dead_links_are_kept(tmp_path):
  _make(tmp_path, "corpus/1.txt", "elsewhere/2.txt")
  (tmp_path / "corpus/linked").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "corpus/loop").symlink_to(tmp_path / "corpus")
  (tmp_path / "corpus/dead.txt").symlink_to(tmp_path / "nothing")
  assert _names(tmp_path / "corpus") == ["1.txt", "dead.txt", "linked/2.txt"]


def test_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
  _make(tmp_path, "a/1.txt", "b/2.txt")
  scandir = os.scandir

  def refuse(path):
    if str(path).endswith("b"):
      raise PermissionError(13, "Permission denied", str(path))
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  with pytest.raises(ValueError, match=r"cannot be listed \(.*Permission denied.*/b'\); check"):
    match_files(str(tmp_path))


def test_remote_files_are_found_like_local_ones(request):
  system = fsspec.filesystem("memory")
  request.addfinalizer(lambda: system.rm("/corpus", recursive=True))
  for name in ("train-0.jsonl", "train-1.txt", "s/3.txt", "t.parquet/part.parquet", ".h/4.txt"):
    system.pipe(f"/corpus/{name}", b"some text")
  url = "memory://corpus"
  first = File("memory:///corpus/train-0.jsonl", "train-0.jsonl", 9)
  assert match_files(f"{url}/train-0.jsonl") == [first]
  assert match_files(f"{url}/train*")[0] == first
  assert _names(f"{url}/train*;{url}/s") == ["s/3.txt", "train-0.jsonl", "train-1.txt"]
  everything = ["s/3.txt", "t.parquet/part.parquet", "train-0.jsonl", "train-1.txt"]
  assert _names(url) == _names(f"{url}/") == everything
  assert _names(f"{url}/*") == everything[1:]
  assert first.read(5, 100) == b"text"
  with first.open() as stream:
    assert stream.readline() == b"some text"


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("b.txt", r"No .jsonl, .txt, .parquet or .array_record file matches '.*b.txt'; name a file"),
    ("*.jsonl", "No .* file matches"),
    ("a.txt;", "No .* file matches ''"),
    ("empty", "No .* file matches"),
    ("a.*", r"a.json is none of .jsonl, .txt, .parquet and .array_record; narrow the pattern"),
  ],
)
def test_pattern_that_names_nothing_usable_is_refused(tmp_path, pattern, message):
  _make(tmp_path, "a.txt", "a.json")
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match=message):
    match_files(f"{tmp_path}/{pattern}")


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    ("nowhere://a/b", r"'nowhere://a/b' cannot be listed \(Protocol not known: nowhere\); check"),
    ("memory://no/such.txt", r"'memory://no/such.txt' cannot be listed \(.*such.txt\); check"),
    ("memory://no/such*", r"No .* file matches 'memory://no/such\*'"),
  ],
)
def test_remote_place_that_cannot_be_listed_is_an_error(pattern, message):
  with pytest.raises(ValueError, match=message):
    match_files(pattern)
