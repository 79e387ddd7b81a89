"""Files of documents as one random-access sequence.

Formats, by file name: `.jsonl` (one JSON object per line), `.txt` (one document per file),
`.parquet` (one row is one document) and ArrayRecord (`.array_record` or `.arrayrecord`, one
tf.train.Example per record), each also with a shard suffix (`-00000-of-00010`).  Files lie on a
local disk or wherever fsspec reads.  They are scanned once, when they are opened, so that what is
broken is reported before training starts; afterwards only offsets are held, never the texts.
"""

import hashlib
import json
import operator
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, SupportsIndex

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from melodi_plugin.data.files import File, is_remote, match_files
from melodi_plugin.data.formats import open_format
from melodi_plugin.data.records import BrokenDocument, Document, Fields, Format, Rules

__all__ = [
  "BrokenDocument",
  "Document",
  "DocumentSource",
  "Fields",
  "check_ids",
  "open_documents",
]

_FIELDS = Fields()
_SHOW_AFTER_SECONDS = 2.0
_REDRAW_SECONDS = 0.1


class DocumentSource:
  """Random access to the documents of some files: `len(source)` and `source[i] -> Document`.

  It is a Grain data source; it can be pickled, and read by many threads at once.

  Attributes:
    broken: what was left out, in the order of the files.
    ids_checked: whether opening has seen every id, so that `check_ids` has nothing to do.
  """

  def __init__(
    self,
    formats: Sequence[Format],
    broken: Sequence[BrokenDocument] = (),
    *,
    kept: np.ndarray | None = None,
    ids_checked: bool = True,
  ):
    """Joins scanned `formats`; `kept` are the documents to keep, int64, None for all."""
    self.broken = tuple(broken)
    self.ids_checked = ids_checked
    self._formats = tuple(formats)
    self._starts = np.cumsum([0, *map(len, formats)])
    self._kept = kept

  def __len__(self) -> int:
    return int(self._starts[-1]) if self._kept is None else len(self._kept)

  def __getitem__(self, index: SupportsIndex) -> Document:
    """Reads document `index`; raises IndexError outside the source, BrokenDocument."""
    format, i = self._find(index)
    return format.read(i)

  def __iter__(self) -> Iterator[Document]:
    return (self[i] for i in range(len(self)))

  def __repr__(self) -> str:
    return f"DocumentSource({len(self)} documents in {len(self._formats)} files)"

  def name(self, index: SupportsIndex) -> str:
    """Where document `index` lies, for messages, without reading it."""
    format, i = self._find(index)
    return format.where(i)

  def file_name(self, index: SupportsIndex) -> str:
    """The name of the file that holds document `index`, relative as `File.name` is."""
    return self._find(index)[0].file.name

  def sizes(self) -> np.ndarray:
    """Bytes of every document's record, int64 [len]: a proxy of its length.

    Known from opening, but for Parquet and ArrayRecord, which are read through once.  A document
    that cannot be read has 0.
    """
    sizes = np.concatenate([format.sizes() for format in self._formats])
    return sizes if self._kept is None else sizes[self._kept]

  def fingerprint(self) -> str:
    """Digest of relative file names and documents per file; the same at another place."""
    counts = np.diff(self._starts)
    if self._kept is not None:
      counts = np.diff(np.searchsorted(self._kept, self._starts))
    names = [format.file.name for format in self._formats]
    text = json.dumps(list(zip(names, counts.tolist(), strict=True)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def sizes_fingerprint(self) -> str:
    """Digest of the sizes of documents, or of files where opening did not show those."""
    digest = hashlib.blake2b(digest_size=8)
    for format in self._formats:
      digest.update(format.known_sizes().astype("<i8").tobytes())
    if self._kept is not None:
      digest.update(self._kept.astype("<i8").tobytes())
    return digest.hexdigest()

  def _find(self, index: SupportsIndex) -> tuple[Format, int]:
    i = operator.index(index)
    if not -len(self) <= i < len(self):
      raise IndexError(f"Document {i} is outside of {len(self)} documents.")
    i %= len(self)
    if self._kept is not None:
      i = int(self._kept[i])
    file = int(np.searchsorted(self._starts, i, "right")) - 1
    return self._formats[file], i - int(self._starts[file])


def open_documents(
  pattern: str,
  fields: Fields = _FIELDS,
  *,
  max_bytes: int = 2**24,
  skip_broken: bool = False,
  conversations: bool = False,
) -> DocumentSource:
  """Opens every document that `pattern` names, in the order of the sorted file names.

  Args:
    pattern: folders (searched with their sub-folders), files and globs, local or remote
      (`gs://bucket/path*`), joined with ';'.  A file named twice is read once.
    fields: the names under which records hold text and id.  A record without an id gets
      `<relative file without extension>:<line or record, from 1>`, a `.txt` its relative name.
    max_bytes: the longest text, in bytes of UTF-8; a longer one is broken.
    skip_broken: leave broken documents and files out (`source.broken` lists them) instead of
      raising the first.  What only reading shows (the text in Parquet, all of an ArrayRecord, a
      file that changed) still raises BrokenDocument then.
    conversations: a document is a list of messages, {"role": ..., "content": ...}, in the field of
      the text; formats without lists hold it as JSON.

  Raises:
    BrokenDocument: for the first broken document or file, without `skip_broken`.
    ValueError: if a part of the pattern matches nothing or a file of another format, or if no
      document is left.
  """
  files = match_files(pattern)
  bar = _ScanBar(sum(file.size for file in files))
  rules = Rules(fields, max_bytes, conversations)

  def scan(file: File) -> _Scanned:
    return _scan(open_format(file, rules), bar.advance, skip_broken)

  with bar:
    if any(is_remote(file.path) for file in files):  # A bucket answers many requests at once.
      with ThreadPoolExecutor(16) as pool:
        scanned = list(pool.map(scan, files))
    else:
      scanned = [scan(file) for file in files]
  source = _join(scanned, skip_broken)
  if not len(source) and source.broken:
    raise ValueError(
      f"There is no document left of {pattern!r}, {len(source.broken)} are broken; the first: "
      f"{source.broken[0]}"
    )
  if not len(source):
    raise ValueError(f"The files of {pattern!r} hold no document; add records with a text.")
  return source


def check_ids(source: DocumentSource, *, skip_broken: bool = False) -> tuple[BrokenDocument, ...]:
  """Looks for ids that occur twice, which evaluation and writers cannot tell apart.

  Opening has checked all formats but ArrayRecord, whose ids only reading shows; so this reads
  every document once if there is an ArrayRecord file, and returns at once if there is none.

  Args:
    source: any documents.
    skip_broken: return all repeated and unreadable documents instead of raising the first.

  Raises:
    BrokenDocument: for the first, without `skip_broken`.
  """
  if source.ids_checked:
    return ()
  broken: dict[int, BrokenDocument] = {}
  index, ids = array("q"), array("q")
  for i in range(len(source)):
    try:
      ids.append(hash(source[i].id))
      index.append(i)
    except BrokenDocument as error:
      if not skip_broken:
        raise
      broken[i] = error
  for i, error in _repeats(source, np.array(index), np.array(ids)):
    if not skip_broken:
      raise error
    broken[i] = error
  return tuple(broken[i] for i in sorted(broken))


class _Scanned(NamedTuple):
  """What the scan of a file found: `format` is None if the whole file is broken."""

  format: Format | None
  ids: np.ndarray | None
  broken: list[BrokenDocument]


def _scan(format: Format, advance: Callable[[int], None], skip_broken: bool) -> _Scanned:
  broken = []

  def report(error: BrokenDocument) -> None:
    if not skip_broken:
      raise error
    broken.append(error)

  try:
    ids = format.scan(report, advance)
  except BrokenDocument as error:
    if not skip_broken:
      raise
    return _Scanned(None, None, [error])
  return _Scanned(format, ids, broken)


def _join(scanned: list[_Scanned], skip_broken: bool) -> DocumentSource:
  """One source of all files, without the documents that repeat an id."""
  formats = [file.format for file in scanned if file.format is not None]
  starts = np.cumsum([0, *(0 if file.format is None else len(file.format) for file in scanned)])
  hashed = [number for number, file in enumerate(scanned) if file.ids is not None]
  index = [np.arange(starts[number], starts[number + 1]) for number in hashed]
  ids = [np.asarray(scanned[number].ids, np.int64) for number in hashed]
  source = DocumentSource(formats, ids_checked=len(hashed) == len(formats))
  if not hashed:
    index = ids = [np.empty(0, np.int64)]

  broken = [(number, error) for number, file in enumerate(scanned) for error in file.broken]
  kept = np.ones(starts[-1], bool)
  for i, error in _repeats(source, np.concatenate(index), np.concatenate(ids)):
    if not skip_broken:
      raise error
    kept[i] = False
    broken.append((int(np.searchsorted(starts, i, "right")) - 1, error))
  return DocumentSource(
    formats,
    [error for _, error in sorted(broken, key=lambda entry: entry[0])],
    kept=None if kept.all() else np.flatnonzero(kept),
    ids_checked=source.ids_checked,
  )


def _repeats(
  source: DocumentSource, index: np.ndarray, ids: np.ndarray
) -> Iterator[tuple[int, BrokenDocument]]:
  """Yields every document whose id an earlier one has; `ids` [n] are hashes, of `index` [n]."""
  values, counts = np.unique(ids, return_counts=True)
  first: dict[str, int] = {}
  # Hashes can agree by chance, so the few that do are read again.
  for i in index[np.isin(ids, values[counts > 1])].tolist():
    try:
      id = source[i].id
    except BrokenDocument:
      continue  # It has no id that could be told from another; reading it raises again.
    if first.setdefault(id, i) != i:
      yield (
        i,
        BrokenDocument(
          source.name(i),
          f"has the id {id!r} of {source.name(first[id])}; give every document its own id",
        ),
      )


class _ScanBar:
  """A progress bar on stderr that appears when the scan takes longer than two seconds."""

  def __init__(self, total: int):
    self._total = total or None
    self._done = 0
    self._began = self._drawn = time.monotonic()
    self._bar: Progress | None = None
    self._lock = threading.Lock()

  def __enter__(self) -> "_ScanBar":
    return self

  def __exit__(self, *error: object) -> None:
    if self._bar is not None:
      self._bar.stop()

  def advance(self, size: int) -> None:
    """Counts `size` bytes; any thread may call it, for every record."""
    with self._lock:
      self._done += size
      now = time.monotonic()
      if now - self._began < _SHOW_AFTER_SECONDS or now - self._drawn < _REDRAW_SECONDS:
        return
      self._drawn = now
      bar = self._bar = self._bar or self._show()
      bar.update(bar.task_ids[0], completed=self._done)

  def _show(self) -> Progress:
    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress("Scanning documents", *columns, console=Console(stderr=True), transient=True)
    bar.add_task("scan", total=self._total)
    bar.start()
    return bar
