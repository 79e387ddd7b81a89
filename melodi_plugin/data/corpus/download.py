"""Files that are published on a server, copied into a folder; goes on where it was stopped."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from melodi_plugin.data.files import File

_AT_ONCE = 16  # books are small, and a server answers many requests at once


def download(files: Sequence[File], folder: Path) -> None:
  """Copies `files` to their names below `folder`; one that is there with its size is left.

  A file appears under its name when it is whole.

  Raises:
    ValueError: for a file that cannot be copied.
  """
  missing = [file for file in files if not _is_here(file, folder)]
  columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
  with (
    Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ThreadPoolExecutor(_AT_ONCE) as pool,
  ):
    task = progress.add_task("Copying", total=sum(file.size for file in missing) or None)
    copies = [pool.submit(_copy, file, folder) for file in missing]
    try:
      for file, copy in zip(missing, copies, strict=True):
        copy.result()
        progress.advance(task, file.size)
    finally:
      pool.shutdown(cancel_futures=True)


def _is_here(file: File, folder: Path) -> bool:
  here = folder / file.name
  return here.is_file() and here.stat().st_size == (file.size or here.stat().st_size)


def _copy(file: File, folder: Path) -> None:
  here = folder / file.name
  part = here.with_name(f"{here.name}.part")
  system, path = file.filesystem()
  try:
    here.parent.mkdir(parents=True, exist_ok=True)
    system.get_file(path, str(part))
    size = part.stat().st_size
  except Exception as error:  # The many stores have no common one.
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise ValueError(
      f"{file.path} cannot be copied to {here} ({reason}); the same command goes on from here."
    ) from error
  if file.size and size != file.size:
    raise ValueError(
      f"{file.path} came with {size:,} bytes instead of {file.size:,}; the same command goes on "
      "from here."
    )
  os.replace(part, here)
