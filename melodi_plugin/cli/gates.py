"""`melodi gates '<run>/checkpoints/*/items' [folder]`: do the gates move?"""

from collections.abc import Sequence

from melodi_plugin.checkpoints.gates import draw, read_gates, show
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.weights import find_checkpoints


def main(argv: Sequence[str]) -> None:
  """Command line of `gates`."""
  if len(argv) not in (2, 3):
    raise UserError("give the checkpoints: melodi gates '<run>/checkpoints/*/items' [folder]")
  folder = argv[2] if len(argv) == 3 else "."
  try:
    series = [read_gates(checkpoint) for checkpoint in find_checkpoints(argv[1])]
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error
  show(series)
  draw(series).savefig(f"{folder}/gates.png", dpi=120)
  print(f"written to {folder}/gates.png", flush=True)
