"""`melodi sizes`: what models cost."""

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Sequence

from melodi_plugin.cost.sizes import Sizes, table
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.launch import load_config

# Reading the config must neither wait for other hosts nor look for documents.
_ALONE = (
  "skip_jax_distributed_system=true",
  "dataset_type=synthetic",
  "enable_checkpointing=false",
)


def measure(paths: Sequence[str], keys: Sequence[str]) -> dict[str, Sizes]:
  """Sizes of every config, by the stem of its file; a bad one ends the program with status 2."""
  rows: dict[str, Sizes] = {}
  from melodi_plugin.maxtext.sizes import sizes  # after registration, which load_config does

  for path in paths:
    stem = pathlib.Path(path).stem
    name = path if stem in rows else stem
    config = load_config(["", path, *_ALONE, *keys])
    try:
      rows[name] = sizes(config)
    except (ValueError, NotImplementedError) as error:
      raise UserError(f"{path}: {error}") from error
  return rows


def main(options: argparse.Namespace) -> None:
  """Prints the table, or a JSON list, and nothing else, on standard output."""
  with contextlib.redirect_stdout(sys.stderr):  # MaxText prints what it reads
    rows = measure(options.configs, options.keys)
  if options.json:
    print(json.dumps([{"name": name, **row._asdict()} for name, row in rows.items()], indent=2))
  else:
    print(table(rows).markdown(), end="")
