"""Files into and out of folders that may be remote."""

import json
from typing import Any

import fsspec


def write_files(folder: str, contents: dict[str, bytes]) -> None:
  """Writes files by name into `folder`, which is created if need be."""
  files, root = fsspec.core.url_to_fs(folder)
  files.makedirs(root, exist_ok=True)
  for name, content in contents.items():
    files.pipe_file(f"{root}/{name}", content)


def read_json(path: str) -> Any:
  """What a file of JSON holds; raises ValueError if it cannot be read."""
  try:
    files, name = fsspec.core.url_to_fs(path)
    return json.loads(files.cat_file(name))
  except (OSError, ValueError) as error:
    raise ValueError(f"cannot read {path}: {error}") from None
