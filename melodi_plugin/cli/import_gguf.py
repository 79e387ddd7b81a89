"""`melodi import-gguf`: a llama GGUF file becomes a stock checkpoint."""

import argparse
from pathlib import Path

from melodi_plugin.checkpoints.gguf.importer import import_file
from melodi_plugin.errors import user_errors


def main(options: argparse.Namespace) -> None:
  """Writes parameters, tokenizer and config."""
  with user_errors(ValueError, OSError):
    import_file(
      Path(options.file),
      Path(options.out),
      scan_layers=options.scan_layers,
      own_head=options.own_head,
    )
