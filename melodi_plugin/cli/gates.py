"""`melodi gates`: do the gates move?"""

import argparse

from melodi_plugin.checkpoints.gates import draw, read_gates, show
from melodi_plugin.errors import user_errors
from melodi_plugin.maxtext.weights import find_checkpoints


def main(options: argparse.Namespace) -> None:
  """Prints a table and draws a picture."""
  with user_errors(ValueError, OSError):
    series = [read_gates(checkpoint) for checkpoint in find_checkpoints(options.checkpoints)]
  show(series)
  draw(series).savefig(f"{options.folder}/gates.png", dpi=120)
  print(f"written to {options.folder}/gates.png", flush=True)
