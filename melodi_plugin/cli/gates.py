"""`melodi gates`: do the gates move?"""

import argparse

from melodi_plugin.checkpoints.gates import draw, read_gates, run_folder, show
from melodi_plugin.errors import user_errors
from melodi_plugin.maxtext.weights import find_checkpoints
from melodi_plugin.output.files import write_files


def main(options: argparse.Namespace) -> None:
  """Prints a table and draws a picture."""
  with user_errors(ValueError, OSError):
    checkpoints = find_checkpoints(options.checkpoints)
    series = [read_gates(checkpoint) for checkpoint in checkpoints]
    folder = options.folder or run_folder(checkpoints[0])
    show(series)
    write_files(folder, {"gates.png": draw(series)})
  print(f"written to {folder}/gates.png", flush=True)
