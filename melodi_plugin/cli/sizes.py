"""`melodi sizes`: what models cost; `melodi paper-configs`: configs of the paper's experiments."""

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Sequence

from melodi_plugin.cost.paper_configs import differences, files
from melodi_plugin.cost.sizes import Sizes, closed_form, table
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS, read_light

# Reading the config must neither wait for other hosts nor look for documents.
_ALONE = ("skip_jax_distributed_system=true", WITHOUT_DOCUMENTS, "enable_checkpointing=false")


def measure(paths: Sequence[str], keys: Sequence[str]) -> dict[str, Sizes]:
  """Sizes of every config, by the stem of its file; a bad one is a UserError."""
  rows: dict[str, Sizes] = {}
  for path in paths:
    stem = pathlib.Path(path).stem
    name = path if stem in rows else stem
    config = read_light([path, *_ALONE, *keys])
    rows[name] = (config and closed_form(config)) or _by_maxtext(path, keys)
  return rows


def _by_maxtext(path: str, keys: Sequence[str]) -> Sizes:
  print(f"{path} needs MaxText to be read, which takes about 15 seconds", file=sys.stderr)
  from melodi_plugin.maxtext.configs import load_config  # slow, and rarely needed

  config = load_config(["", path, *_ALONE, *keys], here=False)
  from melodi_plugin.maxtext.sizes import sizes  # after registration, which load_config does

  try:
    return sizes(config)
  except (ValueError, NotImplementedError) as error:
    raise UserError(f"{path}: {error}") from error


def main(options: argparse.Namespace) -> None:
  """Prints the table, or a JSON list, and nothing else, on standard output."""
  with contextlib.redirect_stdout(sys.stderr):  # MaxText prints what it reads
    rows = measure(options.configs, options.keys)
  if options.json:
    print(json.dumps([{"name": name, **row._asdict()} for name, row in rows.items()], indent=2))
  else:
    print(table(rows).markdown(), end="")


def paper_configs(options: argparse.Namespace) -> None:
  """Writes the files, or checks them."""
  folder = pathlib.Path(options.folder)
  if options.check:
    if drifted := differences(folder):
      raise UserError(f"{len(drifted)} files differ from the table: {', '.join(drifted)}.")
    return
  for name, text in files().items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
