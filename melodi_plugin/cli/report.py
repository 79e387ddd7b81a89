"""`melodi report`: evaluations side by side."""

import argparse

from melodi_plugin.errors import user_errors
from melodi_plugin.evaluation.report import read_evaluations, write_report


def main(options: argparse.Namespace) -> None:
  """Writes the tables and pictures."""
  with user_errors(ValueError, OSError):
    evaluations = [evaluation for path in options.files for evaluation in read_evaluations(path)]
    write_report(evaluations, options.out)
  print(f"written to {options.out}: report.md, report.csv, by_position.png, per_document.png")
