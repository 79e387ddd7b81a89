"""The files that a pattern names, on a local disk or in a bucket.

Whatever a pattern matches is kept, even if it cannot be read: the error comes when it is read, and
no file is lost silently.  Text and JSON lines may be compressed; then they are read forward.
"""

import bz2
import glob
import gzip
import io
import itertools
import lzma
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import fsspec

# `x.jsonl`, and with a shard suffix `x-00000-of-00010.jsonl` or `x.jsonl-00000-of-00010`.
_PLAIN = re.compile(r"(.+)(\.(?:jsonl|txt|parquet|array_record|arrayrecord))(-\d+-of-\d+)?", re.S)
# Compressed `.json` is JSON lines, as C4 is published; alone it may be anything.
_PACKED = re.compile(r"(.+)(\.(?:jsonl?|txt))(-\d+-of-\d+)?\.(?:gz|bz2|xz|zst)", re.S)

_thread = threading.local()  # `place` in the compressed file that this thread read last


def _open_zstd(stream: Any) -> Any:
  import pyarrow as pa  # slow to import, and no other format of ours needs it here

  return pa.CompressedInputStream(pa.PythonFile(stream, "r"), "zstd")


_OPENERS: dict[str, Callable[[Any], Any]] = {
  ".gz": lambda stream: gzip.GzipFile(fileobj=stream),
  ".bz2": bz2.BZ2File,
  ".xz": lzma.LZMAFile,
  ".zst": _open_zstd,
}


class File(NamedTuple):
  """One file.

  `path` is absolute, or a URL such as `gs://bucket/name`; `name` is relative to the folder that
  the patterns have in common; `size` is in bytes, 0 where the listing does not say it.
  """

  path: str
  name: str
  size: int = 0

  @property
  def suffix(self) -> str:
    """The extension that tells the format, without a shard suffix; '' for another format."""
    match = _known(self.name)
    return (".jsonl" if match[2] == ".json" else match[2]) if match else ""

  @property
  def compressed(self) -> bool:
    """Whether the file has to be unpacked; `size` is that of what is stored."""
    return os.path.splitext(self.path)[1] in _OPENERS

  @property
  def stem(self) -> str:
    """The name without its extension; a shard suffix stays."""
    match = _known(self.name)
    return match[1] + (match[3] or "") if match else self.name

  def filesystem(self) -> tuple[fsspec.AbstractFileSystem, str]:
    """Where the file lies, and its path there."""
    if is_remote(self.path):
      return fsspec.core.url_to_fs(self.path)
    return fsspec.filesystem("file"), self.path

  def open(self) -> io.BufferedReader:
    """Opens the file for reading from its beginning; raises OSError and what its store raises.

    What is compressed is unpacked, and may raise what its library raises.
    """
    system, path = self.filesystem()
    stream = system.open(path, "rb")
    if self.compressed:
      return _Unpacked(stream, _OPENERS[os.path.splitext(self.path)[1]])
    return io.BufferedReader(cast(io.RawIOBase, stream), 2**20)

  def read(self, start: int, size: int) -> bytes:
    """Bytes start..start+size, unpacked, fewer at the end of the file; raises as `open`.

    In a compressed file a thread goes on from where it read last, so that reading it in order
    unpacks it once, and a step back unpacks it from its beginning.
    """
    if self.compressed:
      return _read_forward(self, start, size)
    system, path = self.filesystem()
    return cast(bytes, system.cat_file(path, start=start, end=start + size))


def match_files(pattern: str) -> list[File]:
  """Every file that `pattern` names, sorted by path, each once.

  Args:
    pattern: folders (searched with their sub-folders, hidden ones left out), files and globs,
      local or with a protocol that fsspec knows (`gs://bucket/path*`), joined with ';'.  What is
      there by its own name is taken, whatever letters that has.

  Raises:
    ValueError: if a part matches nothing, cannot be listed, or names a file of another format.
  """
  sizes: dict[str, int] = {}
  roots = []
  whole = not is_remote(pattern) and os.path.exists(os.path.expanduser(pattern))
  for part in [pattern] if whole else pattern.split(";"):
    root, found = _match(part.strip())
    roots.append(root.rstrip("/").split("/"))
    sizes |= found
  # Names begin below what the folders have in common, so that no two files share a name.
  levels = zip(*roots, strict=False)
  depth = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
  return [File(path, path.split("/", depth)[-1].lstrip("/"), sizes[path]) for path in sorted(sizes)]


class _Unpacked(io.BufferedReader):
  """What a stream holds, unpacked; closing it closes the stream, which the libraries leave open."""

  def __init__(self, stream: Any, opener: Callable[[Any], Any]):
    self._stream = stream
    super().__init__(opener(stream), 2**20)

  def close(self) -> None:
    super().close()
    self._stream.close()


class _Place(NamedTuple):
  """Where a thread reads in a compressed file: `at` counts unpacked bytes."""

  file: File
  at: int
  stream: io.BufferedReader


def _read_forward(file: File, start: int, size: int) -> bytes:
  place, _thread.place = getattr(_thread, "place", None), None
  if place is not None and (place.file != file or place.at > start):
    place.stream.close()
    place = None
  if place is None:
    place = _Place(file, 0, file.open())
  _, at, stream = place
  while at < start and (passed := stream.read(min(start - at, 2**20))):
    at += len(passed)
  raw = stream.read(size) if at == start else b""
  _thread.place = _Place(file, at + len(raw), stream)  # only now: an error leaves none behind
  return raw


def is_remote(path: str) -> bool:
  """Whether `path` is a URL."""
  return "://" in path


def _match(pattern: str) -> tuple[str, dict[str, int]]:
  """The folder that names are relative to, and the size of every file by its path."""
  pattern = pattern.removeprefix("file://")
  try:
    root, found = (_match_remote if is_remote(pattern) else _match_local)(pattern)
  except Exception as error:
    raise ValueError(
      f"{pattern!r} cannot be listed ({error}); check the name and that you may read it."
    ) from error
  if not found:
    raise ValueError(
      f"No .jsonl, .txt, .parquet or .array_record file matches {pattern!r}; name a file, a "
      "folder or a glob, and join several with ';'."
    )
  for path in found:
    if not _known(path):
      raise ValueError(
        f"{path} is none of .jsonl, .txt, .parquet and .array_record; narrow the pattern "
        f"{pattern!r}."
      )
  return root, found


def _match_local(pattern: str) -> tuple[str, dict[str, int]]:
  if not pattern:
    return "", {}
  path = os.path.abspath(os.path.expanduser(pattern))
  if os.path.isdir(path):
    return path, dict(_walk(path))
  if os.path.isfile(path):
    return os.path.dirname(path), {path: os.path.getsize(path)}
  found = glob.glob(path, recursive=True)
  return _fixed_folder(path), _files_among(found, os.path.isdir, _walk, _size)


def _match_remote(pattern: str) -> tuple[str, dict[str, int]]:
  system, path = fsspec.core.url_to_fs(pattern)
  system.invalidate_cache()  # A listing from before an upload would hide files.

  def find(folder: str) -> Iterator[tuple[str, int]]:
    for name, info in system.find(folder, detail=True).items():
      if _wanted(name[len(folder) :]):
        yield name, info.get("size") or 0

  root = os.path.dirname(path)
  if glob.has_magic(path):
    entries: dict[str, Any] = system.glob(path, detail=True)
    root = _fixed_folder(path)
    found = _files_among(
      list(entries),
      lambda name: entries[name]["type"] == "directory",
      find,
      lambda name: entries[name].get("size") or 0,
    )
  elif system.isdir(path):
    root, found = path, dict(find(path))
  else:
    found = {path: system.size(path) or 0}
  return system.unstrip_protocol(root), {
    system.unstrip_protocol(name): size for name, size in found.items()
  }


def _files_among(
  names: list[str],
  is_folder: Callable[[str], bool],
  find: Callable[[str], Iterator[tuple[str, int]]],
  size: Callable[[str], int],
) -> dict[str, int]:
  """Files by size; a folder counts only if it has the name of a file: `x.parquet/` of parts."""
  found: dict[str, int] = {}
  for name in names:
    if not is_folder(name):
      found[name] = size(name)
    elif _known(name):
      found |= find(name)
  return found


def _walk(folder: str) -> Iterator[tuple[str, int]]:
  """(path, size) of every file below `folder` that may hold documents."""

  def refuse(error: OSError) -> None:
    raise error  # os.walk would leave out a folder that cannot be listed.

  seen = set()
  for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
    if (real := os.path.realpath(place)) in seen:  # A link that leads back.
      folders.clear()
      continue
    seen.add(real)
    folders[:] = [name for name in folders if not name.startswith(".")]
    for name in names:
      if _wanted(name):
        yield os.path.join(place, name), _size(os.path.join(place, name))


def _wanted(name: str) -> bool:
  hidden = any(part.startswith(".") for part in name.split("/"))
  return not hidden and _known(name) is not None


def _known(name: str) -> re.Match[str] | None:
  """Stem, extension and shard suffix of a file that holds documents; None for another."""
  return _PLAIN.fullmatch(name) or _PACKED.fullmatch(name)


def _size(path: str) -> int:
  try:
    return os.path.getsize(path)
  except OSError:  # Opening the file will say what is wrong with it.
    return 0


def _fixed_folder(path: str) -> str:
  """The folder in front of the first wildcard."""
  folder = os.path.dirname(path)
  while glob.has_magic(folder):
    folder = os.path.dirname(folder)
  return folder
