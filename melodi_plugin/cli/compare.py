"""`melodi compare`: several configs trained and evaluated alike.

Trains and evaluates every config with the same data, seeds and budget, one process after the other,
and writes into FOLDER (default `comparison`) `comparison.md`, `.csv`, `.json`, `loss.png`,
`bytes.png`, `memory.png` and `position.png`.  key=value is for all rows, as in `steps=100`.

The same command goes on where it was stopped: what is finished is not run again, and training goes
on from its last checkpoint.  What a run prints is in FOLDER/logs.

`evaluate_with=melodi_long_term_windows=1,4,16` also reads the test documents with a key changed
after training, with every row to which it matters: `memory_after_training.png`.

`probe=ruler` also asks every trained row, as `melodi evaluate … melodi_probe=ruler` does:
`probe_ruler.md` and `.png`.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from melodi_plugin.compare import configs, plots, table
from melodi_plugin.compare.execution import execute_all, locked
from melodi_plugin.compare.request import FORCED, Request, ask, check_same, unequal_slots
from melodi_plugin.compare.results import put_together
from melodi_plugin.compare.runs import Result, Row, Run, check_settings
from melodi_plugin.errors import UserError
from melodi_plugin.output.files import write_files


def find_rows(request: Request) -> list[Row]:
  """Reads and checks all configs, also as evaluate_with changes them, before anything is run."""
  names = dict(zip(request.configs, request.names, strict=True))
  changes = [f"{request.key}={value}" for value in request.values]
  asked = {}
  for config, name in names.items():
    place = (f"run_name={name}", f"base_output_directory={request.out}")
    asked[config, ""] = (config, *request.overrides, *FORCED, *place)
    asked |= {(config, change): (*asked[config, ""], change) for change in changes}
  # All at once: it is one process that loads MaxText.
  described = dict(zip(asked, configs.describe(list(asked.values())), strict=True))
  rows = []
  for config, name in names.items():
    own = described[config, ""]
    changed = _changed(config, own, {change: described[config, change] for change in changes})
    rows.append(
      Row(name, config, request.overrides, own.settings, own.sizes, changed, own.hides_empty_slots)
    )
  check_same({row.config: row.settings for row in rows})
  return rows


def _changed(
  config: str, own: configs.Described, others: dict[str, configs.Described]
) -> dict[str, Any]:
  """Sizes with each key=value that this row is evaluated with as well."""
  if not own.evaluated:
    return {}  # nothing to change
  for argument, other in others.items():
    if other.sizes["parameters"] != own.sizes["parameters"]:
      raise UserError(
        f"evaluate_with: {argument} changes the number of parameters of {config}, so the trained "
        "model cannot be read with it; change what has none, as melodi_long_term_windows."
      )
  return {a: other.sizes for a, other in others.items() if other.evaluated != own.evaluated}


def write(request: Request, rows: Sequence[Row], results: list[Result], failed: list[str]) -> None:
  """Writes all files and prints the tables."""
  found = put_together(rows, results)
  if not found:
    return
  pictures = plots.pictures(found)
  texts = {
    "comparison.md": table.markdown(request, found, failed, pictures),
    "comparison.csv": table.table_csv(found),
    "comparison.json": table.table_json(request, found, failed),
  }
  contents = {name: text.encode() for name, text in texts.items()} | pictures
  contents |= table.probe_files(results)
  write_files(str(request.out), contents)
  print(table.table(found).markdown())
  if any(one.changed for one in found):
    print(table.changed_table(found, request.key).markdown())
  print(f"written to {request.out}: {', '.join(contents)}", flush=True)


def main(options: argparse.Namespace) -> int:
  """Returns the exit status: 1 if a run has failed."""
  asked = (options.seeds, options.out, options.evaluate_with, options.probe)
  request = ask(options.configs, options.keys, *asked)
  rows = find_rows(request)
  if unequal := unequal_slots({row.name: row.hides_empty_slots for row in rows}):
    print(f"warning: {unequal}.", file=sys.stderr)
  # All rows with one seed before the next seed: something can be compared early.
  runs = [Run(row, seed, request.out, request.probe) for seed in request.seeds for row in rows]
  with _terminated_by_exception(), locked(request.out):
    for run in runs:
      check_settings(run)
    results, failed = execute_all(runs, rows[0].settings["steps"])
    write(request, rows, results, failed)
  for failure in failed:
    print(f"error: {failure}.", file=sys.stderr)
  return 1 if failed else 0


@contextlib.contextmanager
def _terminated_by_exception() -> Iterator[None]:
  """Makes SIGTERM an exception, because without one the running process would be left behind."""

  def end(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)

  before = signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
