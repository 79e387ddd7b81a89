"""`melodi paper-configs`: configs of the paper's experiments."""

import argparse
import pathlib

from melodi_plugin.cost.paper_configs import differences, files
from melodi_plugin.errors import UserError


def main(options: argparse.Namespace) -> None:
  """Writes the files, or checks them."""
  folder = pathlib.Path(options.folder)
  if options.check:
    if drifted := differences(folder):
      raise UserError(f"{len(drifted)} files differ from the table: {', '.join(drifted)}.")
    return
  for name, text in files().items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
