"""States without a model, for tests of what is kept of them."""

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from melodi_plugin.checkpoints.memory_format import BelongsElsewhere
from melodi_plugin.output.files import read_file, write_file


class TextRow(NamedTuple):
  """A row of which nothing is known but a text; its file has as many bytes as are asked for."""

  text: str
  tokens: int = 0
  size: int = 200


def save(path: str, row: Any, pending: Sequence[int], title: str) -> None:
  """As `serving.checkpoint.Checkpoint.save_memory`."""
  content = json.dumps({"row": row, "pending": list(pending), "title": title})
  write_file(path, content.ljust(row.size).encode())


def load(path: str) -> tuple[TextRow, tuple[int, ...], str]:
  """As `save` wrote it; the text "foreign" is that of another model."""
  try:
    found = json.loads(read_file(path))
    row = TextRow(*found["row"])
  except (LookupError, TypeError, json.JSONDecodeError):
    raise ValueError(f"{path} is damaged; write it again.") from None
  if row.text == "foreign":
    raise BelongsElsewhere(f"{path} was written with another model; use that.")
  return row, tuple(found["pending"]), found["title"]


def files_in(folder: str | os.PathLike[str]) -> set[str]:
  """All files below a folder, but for those of the index and of the lock."""
  found = set()
  for parent, _, names in os.walk(folder):
    found |= {os.path.join(parent, name) for name in names}
  return {path for path in found if "index.sqlite" not in path and not path.endswith("/lock")}
