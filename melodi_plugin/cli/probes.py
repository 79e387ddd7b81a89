"""`melodi probes`: results of one probe in one picture, and their table, as Markdown, beside it.

The name before a file's `=` is the name of its curve, by default what tells the results apart.
"""

import argparse
import os
from collections.abc import Sequence

from melodi_plugin.errors import user_errors
from melodi_plugin.evaluation import report
from melodi_plugin.evaluation.probes import plots, result
from melodi_plugin.output.files import write_files


def compare(paths: Sequence[str], names: Sequence[str], out: str) -> None:
  """Writes the picture and the table; raises ValueError if the results are of different probes."""
  results = [result.read(path) for path in paths]
  probes = sorted({found["probe"] for found in results})
  if len(probes) > 1:
    raise ValueError(f"results of {' and '.join(probes)} do not fit into one picture.")
  labels = [name or label for name, label in zip(names, report.labels(results), strict=True)]
  folder, file = os.path.split(out)
  text = result.markdown(results, labels).encode()
  picture = plots.against_distance(results, labels)
  write_files(folder or ".", {file: picture, f"{os.path.splitext(file)[0]}.md": text})
  result.table(results, labels).show()


def main(options: argparse.Namespace) -> None:
  """Compares the files, each perhaps with the name of its curve before it."""
  named = [word.rpartition("=") for word in options.files]
  with user_errors(OSError, ValueError):
    compare([path for _, _, path in named], [name for name, _, _ in named], options.out)
  print(f"written to {options.out}")
