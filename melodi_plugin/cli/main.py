"""`melodi VERB …`: every command of the package, by task."""

import importlib
import sys
from collections.abc import Sequence

from melodi_plugin.errors import exit_status

VERBS = {
  "train": "train",
  "compile": "compile",
  "evaluate": "evaluate",
  "graft": "graft",
  "gates": "gates",
  "import-gguf": "import_gguf",
  "report": "report",
  "probes": "probes",
  "data": "data",
  "sizes": "sizes",
  "compare": "compare",
  "paper-configs": "paper_configs",
  "bench": "bench",
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb; returns the exit status."""
  verb, *arguments = sys.argv[1:] if argv is None else argv
  module = importlib.import_module(f"melodi_plugin.cli.{VERBS[verb]}")
  return exit_status(lambda: module.main([f"melodi {verb}", *arguments]))
