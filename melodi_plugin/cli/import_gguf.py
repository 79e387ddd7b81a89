"""`melodi import-gguf model.gguf OUT`: a llama GGUF file becomes a stock checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from melodi_plugin.checkpoints.gguf.importer import import_file
from melodi_plugin.errors import UserError

_USAGE = (
  "usage: melodi import-gguf <file.gguf> <output folder> [scan_layers=true|false] "
  "[own_head=false|true]"
)
_FLAGS = {"true": True, "false": False}


def main(argv: Sequence[str]) -> None:
  """Imports as the command line says; an error ends the program with status 2."""
  options = dict(option.lower().split("=", 1) for option in argv[3:] if "=" in option)
  known = options.keys() <= {"scan_layers", "own_head"} and _FLAGS.keys() >= set(options.values())
  if len(argv) < 3 or len(options) != len(argv) - 3 or not known:
    raise UserError(_USAGE)
  flags = {name: _FLAGS[value] for name, value in options.items()}
  try:
    import_file(Path(argv[1]), Path(argv[2]), **flags)
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error
