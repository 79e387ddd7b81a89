"""`melodi report`: evaluations side by side.  `melodi probes`: results of one probe in one picture.

The table of probes, as Markdown, lies beside the picture.
"""

import argparse
import os
from collections.abc import Sequence

from melodi_plugin.errors import user_errors
from melodi_plugin.evaluation import report
from melodi_plugin.evaluation.probes import pages, plots
from melodi_plugin.output.files import write_files


def main(options: argparse.Namespace) -> None:
  """Writes the tables and pictures."""
  with user_errors(ValueError, OSError):
    evaluations = [found for path in options.files for found in report.read_evaluations(path)]
    report.write_report(evaluations, options.out)
  print(f"written to {options.out}: report.md, report.csv, by_position.png, per_document.png")


def probes(options: argparse.Namespace) -> None:
  """Compares the files, each perhaps with the name of its curve before it."""
  named = [word.rpartition("=") for word in options.files]
  with user_errors(OSError, ValueError):
    compare([path for _, _, path in named], [name for name, _, _ in named], options.out)
  print(f"written to {options.out}")


def compare(paths: Sequence[str], names: Sequence[str], out: str) -> None:
  """Writes the picture and the table; raises ValueError if the results are of different probes.

  A curve without a name has what tells the results apart.
  """
  results = [pages.read(path) for path in paths]
  kinds = sorted({found["probe"] for found in results})
  if len(kinds) > 1:
    raise ValueError(f"results of {' and '.join(kinds)} do not fit into one picture.")
  labels = [name or label for name, label in zip(names, report.labels(results), strict=True)]
  folder, file = os.path.split(out)
  text = pages.markdown(results, labels).encode()
  picture = plots.against_distance(results, labels)
  write_files(folder or ".", {file: picture, f"{os.path.splitext(file)[0]}.md": text})
  for table in pages.tables(results, labels):
    table.show()
