"""`melodi paper-configs [folder] [--check]`: configs of the paper's experiments."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from melodi_plugin.cost.paper_configs import FOLDER, differences, files


def main(argv: Sequence[str]) -> None:
  """Writes the files, or checks them."""
  parser = argparse.ArgumentParser(prog="melodi paper-configs", description=__doc__)
  parser.add_argument("folder", nargs="?", default=FOLDER, type=pathlib.Path)
  parser.add_argument("--check", action="store_true", help="write nothing, compare")
  options = parser.parse_args(argv[1:])
  if options.check:
    drifted = differences(options.folder)
    if drifted:
      sys.exit(f"{len(drifted)} files differ from the table: {', '.join(drifted)}")
    return
  for name, text in files().items():
    path = options.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
