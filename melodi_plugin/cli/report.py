"""`melodi report a/evaluation.json b/evaluation.json … [out=FOLDER]`: evaluations side by side."""

from collections.abc import Sequence

from melodi_plugin.errors import UserError
from melodi_plugin.evaluation.report import read_evaluations, write_report


def main(argv: Sequence[str]) -> None:
  """Command line of `report`."""
  paths = [argument for argument in argv[1:] if not argument.startswith("out=")]
  folder = next((a.removeprefix("out=") for a in argv[1:] if a.startswith("out=")), "report")
  if not paths:
    raise UserError("name at least one evaluation.json: melodi report a.json b.json out=DIR")
  try:
    evaluations = [evaluation for path in paths for evaluation in read_evaluations(path)]
    write_report(evaluations, folder)
  except (OSError, ValueError) as error:
    raise UserError(str(error)) from error
  print(f"written to {folder}: report.md, report.csv, by_position.png, per_document.png")
