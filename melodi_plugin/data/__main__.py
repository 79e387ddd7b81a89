"""`python -m melodi_plugin.data shakespeare OUT`: write a demo corpus into the folder OUT."""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from melodi_plugin.data.corpora import CORPORA, prepare_corpus


def main(arguments: list[str] | None = None) -> int:
  """Returns the exit status; a ValueError is printed as its one sentence."""
  parser = argparse.ArgumentParser(prog="python -m melodi_plugin.data", description=__doc__)
  parser.add_argument("corpus", choices=sorted(CORPORA))
  parser.add_argument("out", help="folder to make; left as it is when it holds the corpus already")
  options = parser.parse_args(arguments)
  try:
    with Console(stderr=True).status(f"Preparing {options.corpus} ..."):
      manifest = prepare_corpus(options.corpus, options.out)
  except ValueError as error:
    print(error, file=sys.stderr)
    return 1
  table = Table("split", "documents", "bytes", "tokens", title=f"{options.corpus}: {options.out}")
  for split, sizes in manifest["splits"].items():
    table.add_row(split, *(f"{sizes[key]:,}" for key in ("documents", "bytes", "tokens")))
  Console().print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
