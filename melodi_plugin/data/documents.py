"""Files of documents as one random-access sequence.

Two formats: `.jsonl` (one JSON object per line: `text`, and optionally `id`) and `.txt` (one
document per file).  Files are scanned and checked once, when they are opened, so that a broken
record is reported before training starts; afterwards only offsets are held, never the texts.
"""

import glob
import json
import operator
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, SupportsIndex

_FORMATS = (".jsonl", ".txt")


class Document(NamedTuple):
  """One document: `id` names it in messages and results, `text` is its whole text."""

  id: str
  text: str


class _File(NamedTuple):
  path: str
  name: str  # Relative to the folder that was asked for: the id of a `.txt` document.


class DocumentSource:
  """Random access to the documents of some files: `len(source)` and `source[i] -> Document`.

  It is a Grain data source, can be pickled, and holds 24 bytes per document.
  """

  def __init__(self, files: list[_File]):
    """Scans `files` in order; raises ValueError (naming file and line) at the first bad record."""
    self._files = files
    self._file_index = array("q")
    self._offset = array("q")
    self._line = array("q")
    for index, file in enumerate(files):
      for line, offset in _scan(file):
        self._file_index.append(index)
        self._offset.append(offset)
        self._line.append(line)

  def __len__(self) -> int:
    return len(self._offset)

  def __getitem__(self, index: SupportsIndex) -> Document:
    """Reads document `index`; raises IndexError outside the source, ValueError for a bad record."""
    i = operator.index(index)
    file = self._files[self._file_index[i]]
    with open(file.path, "rb") as stream:
      if file.path.endswith(".txt"):
        return _parse_text(file, stream.read())
      stream.seek(self._offset[i])
      return _parse_line(file, self._line[i], stream.readline())

  def __iter__(self) -> Iterator[Document]:
    return (self[i] for i in range(len(self)))

  def __repr__(self) -> str:
    return f"DocumentSource({len(self)} documents in {len(self._files)} files)"


def open_documents(pattern: str) -> DocumentSource:
  """Opens every document that `pattern` names, in the order of the sorted file names.

  Args:
    pattern: a folder (searched with its sub-folders), one file, or a glob; several are joined
      with ';'.  A file named twice is read once.

  Raises:
    ValueError: if a part of the pattern matches nothing, a file has another format, a record is
      broken, or there is no document at all.
  """
  files = {}
  for part in pattern.split(";"):
    for file in _match(part.strip()):
      files.setdefault(file.path, file)
  source = DocumentSource([files[path] for path in sorted(files)])
  if not len(source):
    raise ValueError(f"The files of {pattern!r} hold no document; add lines with a 'text' field.")
  return source


def _match(pattern: str) -> list[_File]:
  path = os.path.expanduser(pattern)
  if pattern and os.path.isdir(path):
    root = path
    found = glob.glob(os.path.join(glob.escape(path), "**", "*"), recursive=True)
    found = [name for name in found if name.endswith(_FORMATS)]
  else:
    root = _fixed_folder(path)
    found = [path] if os.path.isfile(path) else glob.glob(path, recursive=True)
  found = [name for name in found if os.path.isfile(name)]
  if not found:
    raise ValueError(
      f"No .jsonl or .txt file matches {pattern!r}; name a local file, a folder or a glob, and "
      "join several with ';'."
    )
  for name in found:
    if not name.endswith(_FORMATS):
      raise ValueError(f"{name} is neither .jsonl nor .txt; narrow the pattern {pattern!r}.")
  return [
    _File(os.path.abspath(name), Path(os.path.relpath(name, root)).as_posix()) for name in found
  ]


def _fixed_folder(path: str) -> str:
  """The folder in front of the first wildcard: ids do not depend on what else a glob matches."""
  folder = os.path.dirname(path)
  while glob.has_magic(folder):
    folder = os.path.dirname(folder)
  return folder or "."


def _scan(file: _File) -> Iterator[tuple[int, int]]:
  """Yields (line number, byte offset) of every document of `file`, each checked."""
  with open(file.path, "rb") as stream:
    if file.path.endswith(".txt"):
      _parse_text(file, stream.read())
      yield 1, 0
      return
    offset = 0
    for line, record in enumerate(stream, start=1):
      if record.strip():
        _parse_line(file, line, record)
        yield line, offset
      offset += len(record)


def _parse_text(file: _File, raw: bytes) -> Document:
  text = _decode(raw, file.path)
  if not text.strip():
    raise ValueError(f"{file.path} is empty; remove the file or give it text.")
  return Document(file.name, text)


def _parse_line(file: _File, line: int, raw: bytes) -> Document:
  where = f"{file.path}:{line}"
  try:
    record = json.loads(_decode(raw, where))
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{where} is not valid JSON ({error.msg} at column {error.colno}); write one object per line."
    ) from None
  if not isinstance(record, dict) or "text" not in record:
    raise ValueError(f"{where} has no 'text' field; write one object per line with a 'text' field.")
  text, name = record["text"], record.get("id", f"{Path(file.name).stem}:{line}")
  if not isinstance(text, str):
    raise ValueError(f"{where} has a 'text' of type {type(text).__name__}; make it a string.")
  if not text.strip():
    raise ValueError(f"{where} has an empty 'text'; remove the line or give it text.")
  if not isinstance(name, str | int):
    raise ValueError(f"{where} has an 'id' of type {type(name).__name__}; make it a string.")
  try:
    # JSON can spell half of a surrogate pair, which no tokenizer accepts.
    text.encode()
  except UnicodeEncodeError:
    raise ValueError(
      f"{where} has a lone surrogate (\\ud800-\\udfff) in 'text'; write whole characters."
    ) from None
  return Document(str(name), text)


def _decode(raw: bytes, where: str) -> str:
  try:
    return raw.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
