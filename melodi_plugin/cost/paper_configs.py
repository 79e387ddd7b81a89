"""The paper's experiments as configs, one YAML per row, and as a table."""

import pathlib
from typing import Any

import yaml

from melodi_plugin.cost.paper_rows import BASE, BATCH, FOLDER, ROWS, Row
from melodi_plugin.cost.printed import CORPORA, perplexity_columns
from melodi_plugin.output.tables import Table

SHARED = "shared/paper.yml"


def table() -> Table:
  """Every row, ours beside the paper's, in millions, and the printed perplexities."""
  names = ("memory", "short", "long", "without embedding")
  header = ["", *(column for name in names for column in (name, f"{name}, printed"))]
  more, perplexities = perplexity_columns([row.printed.perplexity for row in ROWS])
  lines = []
  for row, own in zip(ROWS, perplexities, strict=True):
    cells = [row.name]
    for ours, print_ in zip(row.counted.figures, row.printed.figures, strict=True):
      cells += [f"{ours:.1f}", "-" if print_ is None else f"{print_:g}"]
    lines.append(cells + own)
  return Table("The paper's rows", [*header, *more], lines)


def _numbers(row: Row) -> str:
  names = ("memory", "short", "long", "parameters without embedding")
  parts = []
  for name, ours, print_ in zip(names, row.counted.figures, row.printed.figures, strict=True):
    paper = "" if print_ is None else f" (paper {print_:g})"
    parts.append(f"{name} {ours:.1f}{paper}")
  *memory, size = parts
  return f"#           Millions: {', '.join(memory)},\n#           {size}.\n"


def _expected(row: Row) -> str:
  """The printed perplexities, a line per four of them."""
  printed = row.printed.perplexity
  if not printed:
    return "# Expected: the paper prints no perplexity.\n"
  steps = (BASE | row.keys)["steps"]
  told = [f"{corpus} {printed[corpus]:.2f}" for corpus in CORPORA if corpus in printed]
  lines = [", ".join(told[first : first + 4]) for first in range(0, len(told), 4)]
  after = f"# Expected: perplexity after {steps:,} steps, as the paper prints it:\n"
  return after + "#           " + ",\n#           ".join(lines) + ".\n"


def _text(header: str, keys: dict[str, Any]) -> str:
  return header + yaml.safe_dump(keys, sort_keys=False)


def files() -> dict[str, str]:
  """The content of every file, by its path below the folder."""
  written = "# Written by `melodi paper-configs`; change it there.\n"
  shared = (
    "# What:     what all configs of this folder share: the paper's training, as printed.\n"
    f"# Hardware: {BATCH} cores, one row and all of the model on each (data-parallel).  On fewer\n"
    f"#           per_device_batch_size={BATCH} over their number keeps the batch.\n"
    "# Needs:    melodi data pg19 data/pg19\n"
    "#             --tokenizer gs://t5-data/vocabs/cc_all.32000/sentencepiece.model\n" + written
  )
  found = {SHARED: _text(shared, BASE)}
  for row in ROWS:
    header = (
      f"# What:     {row.what}.\n"
      f"{_numbers(row)}"
      f"{_expected(row)}"
      f"# Command:  melodi train {FOLDER}/{row.name}.yml\n"
      "#             run_name=… base_output_directory=gs://…\n" + written
    )
    found[f"{row.name}.yml"] = _text(header, {"base_config": SHARED, **row.keys})
  return found


def differences(folder: pathlib.Path) -> list[str]:
  """Files below the folder that are missing, different, or not in the table."""
  wanted = files()
  there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.yml")}
  return sorted(
    name
    for name in wanted.keys() | there.keys()
    if name not in there or there[name].read_text(encoding="utf-8") != wanted.get(name)
  )
