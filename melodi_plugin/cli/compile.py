"""`melodi compile cfg.yml compile_topology=…`: MaxText's ahead-of-time compile; no TPU needed."""

from collections.abc import Sequence

from melodi_plugin.maxtext.launch import compile_ahead


def main(argv: Sequence[str]) -> None:
  """Compiles; MaxText prints what it finds."""
  compile_ahead(argv)
