"""Folders of text or code, and files of records, as the documents of a corpus."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from melodi_plugin.data.corpus.plan import Record
from melodi_plugin.data.documents import BrokenDocument, DocumentSource, Fields, open_documents
from melodi_plugin.data.files import match_files

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
  """

  suffixes: tuple[str, ...] = (".txt", ".md", ".py")
  document: Literal["file", "folder"] = "file"
  max_bytes: int = 2**24
  group_by: Literal["auto", "field", "folder", "document"] = "auto"
  text_field: str = "text"
  id_field: str = "id"
  group_field: str = "group"
  skip_broken: bool = False


class Sources:
  """The documents of some sources, as a preset needs them: `sources()` reads them all, in order.

  With several sources the ids and groups of a folder begin with its name.
  """

  def __init__(self, paths: Sequence[str], reading: Reading):
    """Lists the files; raises ValueError for a source that holds none."""
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

  def open(self) -> None:
    pass

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
        texts.append(Path(where).read_bytes().decode("utf-8"))
      except UnicodeDecodeError as error:
        yield BrokenDocument(where, f"is not UTF-8 (byte {error.start}); save it as UTF-8")
      except OSError as error:
        yield BrokenDocument(where, f"cannot be read ({error.strerror}); mend or remove it")
    if self.reading.document == "folder":
      # Empty files, such as __init__.py, are no reason to stop.
      texts = [text.strip("\n") + "\n" for text in texts if text.strip()]
    if texts:
      group = _group(name, "", self.reading)
      yield Record(self.prefix + name, "\n".join(texts), self.prefix + group)


class _RecordFiles:
  def __init__(self, pattern: str, reading: Reading):
    self.pattern, self.reading = pattern, reading
    self._source: DocumentSource | None = None
    self._groups: dict[str, str] = {}  # The group field by id, of the records that have one.

  def describe(self) -> dict[str, Any]:
    sizes = [file.size for file in match_files(self.pattern)]
    return {"path": self.pattern, "files": len(sizes), "bytes": sum(sizes)}

  def open(self) -> None:
    if self._source:
      return
    self._source = self._open(self.reading.text_field, skip_broken=self.reading.skip_broken)
    if self.reading.group_by not in ("auto", "field"):
      return
    with contextlib.suppress(ValueError):  # Raised if no record has a group.
      # The group is read as if it were the text: so it is found in whatever holds documents.
      source = self._open(self.reading.group_field, skip_broken=True)
      for i in range(len(source)):
        with contextlib.suppress(BrokenDocument):
          document = source[i]
          self._groups[document.id] = document.text

  def _open(self, text_field: str, *, skip_broken: bool) -> DocumentSource:
    fields = Fields(text=text_field, id=self.reading.id_field)
    return open_documents(
      self.pattern, fields, max_bytes=self.reading.max_bytes, skip_broken=skip_broken
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
      group = _group(document.id, self._groups.get(document.id, ""), self.reading)
      yield Record(document.id, document.text, group)


def _group(name: str, field: str, reading: Reading) -> str:
  if reading.group_by == "field" and not field:
    raise ValueError(
      f"Document {name!r} has no field {reading.group_field!r}; name another with --group-field, "
      "or use --group-by."
    )
  if reading.group_by == "document":
    return name
  return field or PurePosixPath(name).parts[0]


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
