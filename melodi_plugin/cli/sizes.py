"""`melodi sizes`: what models cost; `melodi paper-configs`: configs of the paper's experiments."""

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from melodi_plugin.cost import paper_configs as paper
from melodi_plugin.cost.paper_rows import match
from melodi_plugin.cost.sizes import Sizes, closed_form, table
from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS, read_light

# Reading the config must neither wait for other hosts nor look for documents.
_ALONE = ("skip_jax_distributed_system=true", WITHOUT_DOCUMENTS, "enable_checkpointing=false")


class Measured(NamedTuple):
  """What is known of a config before it is trained."""

  sizes: Sizes
  printed: Mapping[str, float]  # perplexities by corpus, of a row of the paper


def measure(paths: Sequence[str], keys: Sequence[str]) -> dict[str, Measured]:
  """Every config, by the stem of its file; a bad one is a UserError."""
  rows: dict[str, Measured] = {}
  for path in paths:
    stem = pathlib.Path(path).stem
    name = path if stem in rows else stem
    config = read_light([path, *_ALONE, *keys])
    found = config and closed_form(config)
    if not found:
      config, found = _by_maxtext(path, keys)
    rows[name] = Measured(found, _printed(path, config))
  return rows


def _printed(path: str, config: Any) -> Mapping[str, float]:
  found = match(path, lambda key: getattr(config, key))
  return found.row.printed.perplexity if found and not found.changed else {}


def _by_maxtext(path: str, keys: Sequence[str]) -> tuple[Any, Sizes]:
  print(f"{path} needs MaxText to be read, which takes about 15 seconds", file=sys.stderr)
  from melodi_plugin.maxtext.configs import load_config  # slow, and rarely needed

  config = load_config(["", path, *_ALONE, *keys], here=False)
  from melodi_plugin.maxtext.sizes import sizes  # after registration, which load_config does

  try:
    return config, sizes(config)
  except (ValueError, NotImplementedError) as error:
    raise UserError(f"{path}: {error}") from error


def main(options: argparse.Namespace) -> None:
  """Prints the table, or a JSON list, and nothing else, on standard output."""
  with contextlib.redirect_stdout(sys.stderr):  # MaxText prints what it reads
    rows = measure(options.configs, options.keys)
  if options.json:
    lines = [
      {"name": name, **row.sizes._asdict(), "printed_perplexity": row.printed}
      for name, row in rows.items()
    ]
    print(json.dumps(lines, indent=2))
  else:
    sizes = {name: row.sizes for name, row in rows.items()}
    print(table(sizes, [row.printed for row in rows.values()]).markdown(), end="")


def paper_configs(options: argparse.Namespace) -> None:
  """Writes the files and prints their table, or checks them."""
  folder = pathlib.Path(options.folder)
  if options.check:
    if drifted := paper.differences(folder):
      raise UserError(f"{len(drifted)} files differ from the table: {', '.join(drifted)}.")
    return
  with user_errors(OSError):
    for name, text in paper.files().items():
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text, encoding="utf-8")
  print(paper.table().markdown(), end="")
