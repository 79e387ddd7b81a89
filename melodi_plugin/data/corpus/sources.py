"""Folders of text or code, and files of records, as the documents of a corpus."""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from melodi_plugin.data import records
from melodi_plugin.data.corpus.plan import Record
from melodi_plugin.data.corpus.split import split_of
from melodi_plugin.data.documents import BrokenDocument, DocumentSource, Fields, open_documents
from melodi_plugin.data.files import File, match_files

_RECORD_FILES = (".jsonl", ".parquet", ".array_record")

type _Item = Record | BrokenDocument


@dataclass(frozen=True)
class Reading:
  """How sources become documents.

  Attributes:
    suffixes: ends of the names of the files that are read in folders.
    document: a document is one 'file', or the files of a 'folder' and what lies below it.
    max_bytes: largest size of a document, in bytes of UTF-8.
    group_by: 'auto' is the group field where there is one, else the folder, else the document;
      the folder is the first component of an id with a '/' in it.
    text_field, id_field, group_field: names of the fields of a record.
    skip_broken: give broken records as such, instead of raising at the first.
    keep_splits: a document is of the split that its path names below the source.
    only: a field of a record and its value; records that have another value are left out.
  """

  suffixes: tuple[str, ...] = (".txt", ".md", ".py")
  document: Literal["file", "folder"] = "file"
  max_bytes: int = 2**24
  group_by: Literal["auto", "field", "folder", "document"] = "auto"
  text_field: str = "text"
  id_field: str = "id"
  group_field: str = "group"
  skip_broken: bool = False
  keep_splits: bool = False
  only: tuple[str, str] | None = None


class Sources:
  """The documents of some sources, as a preset needs them: `sources()` reads them all, in order.

  With several sources the ids and groups of a folder begin with its name.
  """

  def __init__(self, paths: Sequence[str], reading: Reading):
    """Lists the files; raises ValueError for a source that holds none, or a file of no split."""
    if reading.keep_splits and reading.document == "folder":
      raise ValueError("A split is kept for files, not for folders; use --document file.")
    self._sources: list[_Folder | _RecordFiles] = []
    for path in paths:
      if os.path.isdir(path) and not path.rstrip("/").endswith(_RECORD_FILES):
        prefix = f"{Path(path).resolve().name}/" if len(paths) > 1 else ""
        self._sources.append(_Folder(path, reading, prefix))
      else:
        self._sources.append(_RecordFiles(path, reading))

  def __call__(self) -> Iterator[_Item]:
    """Opens all sources, and returns an iterator that reads their documents."""
    for source in self._sources:
      source.open()
    return itertools.chain.from_iterable(source.read() for source in self._sources)

  def __len__(self) -> int:
    """The number of documents, at most; of record files after they were opened."""
    return sum(map(len, self._sources))

  def describe(self) -> list[dict[str, Any]]:
    """Name, number of files and size in bytes of every source, to see that one has changed."""
    return [source.describe() for source in self._sources]


class _Folder:
  def __init__(self, path: str, reading: Reading, prefix: str):
    self.path, self.prefix, self.reading = path, prefix, reading
    self.sizes = dict(_list(Path(path), reading.suffixes))  # bytes, by path below the folder
    if not self.sizes:
      raise ValueError(
        f"{path} holds no file that ends in {', '.join(reading.suffixes)}; give --suffixes, or "
        "name its .jsonl or .parquet files."
      )
    for name in self.sizes:
      self._split(name)

  def __len__(self) -> int:
    return len(self.sizes)

  def open(self) -> None:
    pass

  def _split(self, name: str) -> str:
    return _kept_split(self.prefix + name, self.path, self.reading)

  def describe(self) -> dict[str, Any]:
    return {"path": self.path, "files": len(self.sizes), "bytes": sum(self.sizes.values())}

  def read(self) -> Iterator[_Item]:
    if self.reading.document == "file":
      for name in self.sizes:
        yield from self._join(name, [name])
    else:
      yield from self._pack("", list(self.sizes))

  def _pack(self, folder: str, files: Sequence[str]) -> Iterator[_Item]:
    """A folder that fits is one document; else its own files are, and each folder in it."""
    if folder and self._size(files) <= self.reading.max_bytes:
      yield from self._join(folder, files)
      return
    below: dict[str, list[str]] = {}
    pack: list[str] = []
    size = 0
    for name in files:
      first, slash, _ = name[len(folder) :].lstrip("/").partition("/")
      if slash:
        below.setdefault(f"{folder}/{first}".lstrip("/"), []).append(name)
        continue
      size += self._size([name])
      if pack and size > self.reading.max_bytes:
        yield from self._join(pack[0], pack)
        pack, size = [], self._size([name])
      pack.append(name)
    if pack:
      yield from self._join(pack[0], pack)
    for name, inside in below.items():
      yield from self._pack(name, inside)

  def _size(self, files: Sequence[str]) -> int:
    """Bytes of the files joined, at most: each may get an end of line and an empty line."""
    return sum(self.sizes[name] + 2 for name in files)

  def _join(self, name: str, files: Sequence[str]) -> Iterator[_Item]:
    texts = []
    for file in files:
      where = os.path.join(self.path, file)
      if self.sizes[file] > self.reading.max_bytes:
        problem = f"has {self.sizes[file]:,} bytes; raise --max-document-bytes or split it"
        yield BrokenDocument(where, problem)
        continue
      try:
        texts.append(self._text(where))
      except BrokenDocument as broken:
        yield broken
    if self.reading.document == "folder":
      # Empty files, such as __init__.py, are no reason to stop.
      texts = [text.strip("\n") + "\n" for text in texts if text.strip()]
    if texts:
      group = _group(name, "", self.reading)
      yield Record(self.prefix + name, "\n".join(texts), self.prefix + group, self._split(name))

  def _text(self, where: str) -> str:
    file, longest = File(where, where), self.reading.max_bytes
    with records.reading(where), file.open() as stream:
      raw = stream.read(longest + 1)
    if len(raw) > longest:
      raise BrokenDocument(where, f"has more than {longest:,} bytes; raise --max-document-bytes")
    return records.decode(where, raw)


class _RecordFiles:
  def __init__(self, pattern: str, reading: Reading):
    self.pattern, self.reading = pattern, reading
    self._source: DocumentSource | None = None
    for file in match_files(pattern) if reading.keep_splits else ():
      _kept_split(file.name, pattern, reading)

  def __len__(self) -> int:
    return len(self._source or ())

  def describe(self) -> dict[str, Any]:
    sizes = [file.size for file in match_files(self.pattern)]
    return {"path": self.pattern, "files": len(sizes), "bytes": sum(sizes)}

  def open(self) -> None:
    if self._source:
      return
    reading = self.reading
    others = (reading.group_field, reading.only[0] if reading.only else reading.group_field)
    fields = Fields(reading.text_field, reading.id_field, others)
    self._source = open_documents(
      self.pattern, fields, max_bytes=reading.max_bytes, skip_broken=reading.skip_broken
    )

  def read(self) -> Iterator[_Item]:
    assert self._source, "open() comes first"
    yield from self._source.broken
    for i in range(len(self._source)):
      try:
        document = self._source[i]
      except BrokenDocument as broken:
        yield broken
        continue
      own, value = document.others
      if self.reading.only and value != self.reading.only[1]:
        continue
      group = _group(document.id, own, self.reading)
      split = _kept_split(self._source.file_name(i), self.pattern, self.reading)
      yield Record(document.id, document.text, group, split)


def _group(name: str, field: str, reading: Reading) -> str:
  if reading.group_by == "field" and not field:
    raise ValueError(
      f"Document {name!r} has no field {reading.group_field!r}; name another with --group-field, "
      "or use --group-by."
    )
  if reading.group_by == "document":
    return name
  own = field if reading.group_by in ("auto", "field") else ""
  return own or PurePosixPath(name).parts[0]


def _kept_split(name: str, source: str, reading: Reading) -> str:
  """The split that a file has by its name, where splits are kept; '' where they are drawn."""
  split = split_of(name) if reading.keep_splits else ""
  if reading.keep_splits and not split:
    raise ValueError(
      f"{name} in {source} names no split; name the folder that holds train, validation and test, "
      "or leave --keep-splits out."
    )
  return split


def _list(root: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, int]]:
  """Files below `root` in the order of their paths; hidden ones are left out."""

  def fail(error: OSError) -> None:
    raise error

  found = []
  for folder, below, names in os.walk(root, onerror=fail):
    below[:] = [name for name in below if not name.startswith(".") and name != "__pycache__"]
    for name in names:
      path = Path(folder, name)
      if name.endswith(suffixes) and not name.startswith(".") and path.is_file():
        found.append(path)
  for path in sorted(found):
    yield path.relative_to(root).as_posix(), path.stat().st_size
