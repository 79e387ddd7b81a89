"""States without a model, for tests of what is kept of them."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from melodi_plugin.checkpoints.memory_format import BelongsElsewhere
from melodi_plugin.output.files import read_file, write_file
from melodi_plugin.server.errors import Refused


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


def add(
  store: Any, text: str, owner: str = "ann", kind: str = "response", size: int = 200, **rest: Any
) -> Any:
  """Puts the row of a text into a store."""
  return store.add(owner, kind, TextRow(text, 3, size), (7,), tokens=4, **rest)


def refused(status: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Refused:
  """The error with this status with which a call is refused."""
  try:
    call(*args, **kwargs)
  except Refused as error:
    assert error.status == status, error.message  # noqa: PT017
    return error
  raise AssertionError("it was not refused")


def files_in(folder: str | os.PathLike[str]) -> set[str]:
  """All files below a folder, but for those of the index and of the lock."""
  found = set()
  for parent, _, names in os.walk(folder):
    found |= {os.path.join(parent, name) for name in names}
  return {path for path in found if "index.sqlite" not in path and not path.endswith("/lock")}
