"""Files into and out of folders that may be remote."""

import contextlib
import errno
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def write_files(folder: str, contents: dict[str, bytes]) -> None:
  """Writes files by name into `folder`, which is created if need be."""
  for name, content in contents.items():
    write_file(f"{folder}/{name}", content)


def write_file(path: str, content: bytes) -> None:
  """Writes a file, whose folder is created if need be.

  Whenever it is interrupted, there is the old file or the new one, never a part of it: remote
  stores show a file when it is complete, and here it is complete before it takes the name.
  """
  files, name = fsspec.core.url_to_fs(path)
  files.makedirs(os.path.dirname(name), exist_ok=True)
  if isinstance(files, LocalFileSystem):
    _replace(os.path.realpath(name), content)
  else:
    files.pipe_file(name, content)


def check_writable(path: str) -> None:
  """Raises OSError where `write_file` could not write: now, and not after hours of work.

  Of a remote path nothing is known before.
  """
  files, name = fsspec.core.url_to_fs(path)
  if isinstance(files, LocalFileSystem):
    name = os.path.realpath(name)
    if os.path.isdir(name):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    folder = os.path.dirname(name)
    try:
      os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:
      raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
    with tempfile.TemporaryFile(dir=folder):
      pass


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
  """Errors of the system name the file, which a full disk leaves out."""
  try:
    yield
  except OSError as error:
    error.filename = path
    raise


def _replace(path: str, content: bytes) -> None:
  """Writes beside it first, and leaves nothing there; on the disk when it returns."""
  folder = os.path.dirname(path)
  beside = os.path.join(folder, f".{uuid.uuid4().hex}.part")
  try:
    with writing(path), open(beside, "xb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(beside)
    raise
  opened = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(opened)  # the name
  finally:
    os.close(opened)


def read_file(path: str) -> bytes:
  """What a file holds; raises ValueError if it cannot be read."""
  try:
    files, name = fsspec.core.url_to_fs(path)
    return files.cat_file(name)
  except FileNotFoundError:
    raise ValueError(f"cannot read {path}: there is no such file.") from None
  except (OSError, ValueError) as error:
    raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}.") from None


def read_json(path: str) -> Any:
  """What a file of JSON holds; raises ValueError if it cannot be read."""
  content = read_file(path)
  try:
    return json.loads(content)
  except ValueError as error:
    raise ValueError(f"cannot read {path}: {error}") from None
