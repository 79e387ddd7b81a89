"""Files by name, into a folder that may be remote."""

import fsspec


def write_files(folder: str, contents: dict[str, bytes]) -> None:
  """Writes files by name into `folder`, which is created if need be."""
  files, root = fsspec.core.url_to_fs(folder)
  files.makedirs(root, exist_ok=True)
  for name, content in contents.items():
    files.pipe_file(f"{root}/{name}", content)
