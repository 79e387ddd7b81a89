"""`melodi sizes cfg.yml [more.yml …] [key=value …] [--json]`: what models cost."""

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


def main(argv: Sequence[str]) -> None:
  """Prints the table, or a JSON list, and nothing else, on standard output."""
  keys = [argument for argument in argv[1:] if "=" in argument]
  paths = [argument for argument in argv[1:] if argument not in (*keys, "--json")]
  for path in paths:
    if path.endswith(".yaml"):
      raise UserError(f"{path} cannot be read: MaxText reads .yml only; rename it.")
  bad = [path for path in paths if not path.endswith(".yml")]
  if bad or not paths:
    unknown = f"{bad[0]} is neither a config (.yml) nor a key=value; " if bad else ""
    raise UserError(f"{unknown}usage: melodi sizes cfg.yml [more.yml ...] [key=value ...]")
  with contextlib.redirect_stdout(sys.stderr):  # MaxText prints what it reads
    rows = measure(paths, keys)
  if "--json" in argv:
    print(json.dumps([{"name": name, **row._asdict()} for name, row in rows.items()], indent=2))
  else:
    print(table(rows).markdown(), end="")
