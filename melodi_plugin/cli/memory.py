"""`melodi memory`: what is in memory files."""

import argparse
import json

from melodi_plugin.checkpoints.memory_format import Description, describe
from melodi_plugin.errors import user_errors
from melodi_plugin.output.tables import Table, with_unit

# The parts of a row, by the first two names of their arrays below a layer.
_PARTS = {
  "memory.short": "short-term memory",
  "memory.long": "long-term memory",
  "recall.short": "its keys and values, short-term",
  "recall.long": "its keys and values, long-term",
  "opened.tokens": "open window",
  "opened.below": "its tokens below the layer",
  "opened.mixed": "its tokens for the mixers",
}


def main(options: argparse.Namespace) -> None:
  """Prints a table with a column for every file; every byte of them is checked."""
  with user_errors(ValueError):
    columns = [_said(describe(path)) for path in options.files]
  names = list(dict.fromkeys(name for column in columns for name in column))
  rows = [
    [path, *(column.get(name, "-") for name in names)]
    for path, column in zip(options.files, columns, strict=True)
  ]
  print(Table("memory", ["", *names], rows).transposed().markdown(), end="")


def _said(found: Description) -> dict[str, str]:
  """What a file says of itself, line by line."""
  metadata = found.metadata
  return {
    "title": metadata.title or "-",
    "tokens read": f"{metadata.tokens_read:,}",
    "windows that memory holds": f"{metadata.held:,}",
    "tokens of the open window": f"{metadata.count:,}",
    "ids that come next": " ".join(map(str, metadata.pending)) or "-",
    "saved": metadata.created,
    "by": metadata.writer,
    "file": with_unit(found.size, "B"),
    **{name: with_unit(found.parts.get(part, 0), "B") for part, name in _PARTS.items()},
    "model": metadata.model,
    "tokenizer": metadata.tokenizer,
    "ids read": metadata.prefix,
    **{key: json.dumps(value).strip('"') for key, value in metadata.settings.items()},
  }
