"""Text becomes sharded ArrayRecord that MELODI and MaxText's own Grain path train from."""

import argparse
import functools
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from melodi_plugin.data.corpus import corpus_tokenizer, lengths
from melodi_plugin.data.corpus.build import Preset, build
from melodi_plugin.data.corpus.presets import PRESETS, prepare_corpus
from melodi_plugin.data.corpus.sources import Reading, Sources
from melodi_plugin.data.corpus.split import SPLITS
from melodi_plugin.data.documents import BrokenDocument, open_documents
from melodi_plugin.data.padding import compare
from melodi_plugin.output.tables import Table

_EXAMPLES = r"""examples:
  melodi data shakespeare data/shakespeare
  melodi data build data/books books.jsonl --tokenizer tokenizer.model
  melodi data build data/code src/ --suffixes .py --document folder \
    --max-document-bytes 600000 --train-tokenizer 8192

MaxText trains from a folder that is made so with
  dataset_type=grain grain_file_type=arrayrecord grain_train_files=data/books/train-*.array_record
"""


def main(arguments: list[str] | None = None) -> int:
  """Returns the exit status; an error is printed as its one sentence."""
  arguments = sys.argv[1:] if arguments is None else arguments
  options = _parser().parse_args(arguments)
  try:
    if options.command == "padding":
      _show_padding(options)
      return 0
    if options.command in PRESETS:
      manifest = prepare_corpus(options.command, options.out)
    else:
      manifest = _build(options, arguments)
  except BrokenDocument as error:
    hint = " (--skip-broken leaves such documents out)" if options.command == "build" else ""
    print(f"{error}{hint}", file=sys.stderr)
    return 1
  except (ValueError, OSError) as error:
    print(error, file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print(f"Interrupted; {options.out} was not made.", file=sys.stderr)
    return 130
  _report(manifest, options.out)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="melodi data",
    description=__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
  for name in PRESETS:
    preset = commands.add_parser(name, help=f"the preset {name!r}")
    preset.add_argument("out", help="folder to make; left as it is if it holds the corpus already")
  made = commands.add_parser("build", help="a corpus from folders of text or code, or from records")
  made.add_argument("out", help="folder to make; left as it is if it holds the corpus already")
  made.add_argument(
    "source",
    nargs="+",
    help="a folder of text or code, or files of records with text, id and group: .jsonl, .parquet",
  )
  _add_reading(made)
  made.add_argument(
    "--split",
    type=_shares,
    default=(0.85, 0.05, 0.10),
    help="parts of the text for train,validation,test (default 0.85,0.05,0.10)",
  )
  made.add_argument(
    "--shard-bytes", type=_positive, default=2**28, help="text in a shard (default 256 MiB)"
  )
  tokenizer = made.add_mutually_exclusive_group(required=True)
  tokenizer.add_argument("--tokenizer", metavar="PATH", help="tokenizer that counts the tokens")
  tokenizer.add_argument(
    "--train-tokenizer", type=_positive, metavar="VOCAB", help="train one of so many pieces"
  )
  made.add_argument("--tokenizer-type", choices=corpus_tokenizer.KINDS, default="sentencepiece")
  _add_padding(commands)
  return parser


def _add_padding(commands: Any) -> None:
  padded = commands.add_parser("padding", help="how much of the batches would be padding")
  padded.add_argument("files", help="documents, as for grain_train_files")
  padded.add_argument("--tokenizer", metavar="PATH", required=True)
  padded.add_argument("--tokenizer-type", choices=corpus_tokenizer.KINDS, default="sentencepiece")
  padded.add_argument("--rows", type=_positive, required=True, help="of the whole batch")
  padded.add_argument("--window", type=_positive, required=True, help="melodi_window_length")
  padded.add_argument("--segment", type=_positive, required=True, help="max_target_length")


def _add_reading(parser: argparse.ArgumentParser) -> None:
  usual = Reading()
  parser.add_argument(
    "--suffixes",
    type=lambda text: tuple(text.split(",")),
    default=usual.suffixes,
    help="files to read in folders (default .txt,.md,.py)",
  )
  parser.add_argument(
    "--document",
    choices=("file", "folder"),
    default=usual.document,
    help="a document is a file, or the files below a folder joined up to --max-document-bytes",
  )
  parser.add_argument(
    "--max-document-bytes", type=_positive, default=usual.max_bytes, help="default 16 MiB"
  )
  parser.add_argument(
    "--group-by",
    choices=("auto", "field", "folder", "document"),
    default=usual.group_by,
    help="what goes to one split as a whole: records with the same group field, else what has the "
    "same first folder in its id, else every document alone (auto); or one of these",
  )
  parser.add_argument("--text-field", default=usual.text_field)
  parser.add_argument("--id-field", default=usual.id_field)
  parser.add_argument("--group-field", default=usual.group_field)
  parser.add_argument(
    "--skip-broken", action="store_true", help="leave broken documents out and list them"
  )


def _positive(text: str) -> int:
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
  return int(text)


def _shares(text: str) -> tuple[float, ...]:
  try:
    train, validation, test = (float(share) for share in text.split(","))
    fits = train > 0 and min(validation, test) >= 0 and abs(train + validation + test - 1) < 1e-6
  except ValueError:
    fits = False
  if not fits:
    raise argparse.ArgumentTypeError(
      f"{text} is not three parts for {','.join(SPLITS)} that add up to 1, the first above 0"
    )
  return tuple(float(share) for share in text.split(","))


def _build(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
  reading = Reading(
    suffixes=options.suffixes,
    document=options.document,
    max_bytes=options.max_document_bytes,
    group_by=options.group_by,
    text_field=options.text_field,
    id_field=options.id_field,
    group_field=options.group_field,
    skip_broken=options.skip_broken,
  )
  sources = Sources(options.source, reading)
  if options.tokenizer:
    loaded = corpus_tokenizer.load(options.tokenizer, options.tokenizer_type)
    tokenizer, wanted = (lambda texts: loaded), loaded.description
  else:
    tokenizer = functools.partial(corpus_tokenizer.train, vocab_size=options.train_tokenizer)
    wanted = options.train_tokenizer
  preset = Preset(
    documents=sources,
    tokenizer=tokenizer,
    shares=dict(zip(SPLITS, options.split, strict=True)),
    shard_bytes=options.shard_bytes,
    skip_broken=options.skip_broken,
    request={
      "sources": sources.describe(),
      "reading": {key: list(v) if isinstance(v, tuple) else v for key, v in vars(reading).items()},
      "split": list(options.split),
      "shard_bytes": options.shard_bytes,
      "tokenizer": wanted,
    },
  )
  command = shlex.join(["python", "-m", "melodi_plugin", "data", *arguments])
  return build(Path(options.out).resolve().name, preset, options.out, command)


def _show_padding(options: argparse.Namespace) -> None:
  source = open_documents(options.files)
  count = corpus_tokenizer.load(options.tokenizer, options.tokenizer_type).count
  console = Console(stderr=True)
  token_counts = [count(d.text) for d in track(source, "tokenizing", len(source), console=console)]
  found = compare(
    np.asarray(token_counts), source.sizes(), options.rows, options.window, options.segment
  )
  title = (
    f"Padding in one epoch of {len(source):,} documents, {sum(token_counts):,} tokens: "
    f"{options.rows} rows, windows of {options.window}, segments of {options.segment}"
  )
  rows = [
    [name, *(f"{share:.2%}" for share in (*shares, sum(shares)))] for name, shares in found.items()
  ]
  header = ("a row reads", "tails of windows", "ends of rows", "together")
  Table(title, header, rows).show()


def _report(manifest: Mapping[str, Any], out: str) -> None:
  columns = ("documents", "groups", "bytes", "tokens", "shards")
  rows = [
    [split, *(f"{sizes[column]:,}" for column in columns)]
    for split, sizes in manifest["splits"].items()
  ]
  Table(f"{manifest['corpus']}: {out}", ("split", *columns), rows).show()
  console = Console()
  console.print(lengths.table({name: s["lengths"] for name, s in manifest["splits"].items()}))
  for key, what in (("duplicates", "the text of an earlier document"), ("skipped", "broken")):
    if number := manifest[key]["documents"]:
      console.print(f"Left out as {what}: {number:,} (manifest.json lists them).")
