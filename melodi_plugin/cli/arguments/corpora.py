"""What verbs take that make or look at documents."""

from melodi_plugin.cli.parser import Parser, positive, share


def preset(parser: Parser) -> None:
  """Where to."""
  parser.add_argument("out", help="folder to make; left as it is if it holds the corpus already")


def build(parser: Parser) -> None:
  """Where to, from what, and how."""
  preset(parser)
  text = "a folder of text or code, or files of records with text, id and group: .jsonl, .parquet; "
  text += "text and .jsonl may be compressed: .gz, .zst, .bz2, .xz"
  parser.add_argument("source", nargs="+", help=text)
  _corpus(parser, coverage=1.0)
  text = "a document is of the split that its path names: train/1.txt, dev/a.jsonl.zst, "
  text += "c4-validation.00000-of-00008.json.gz; --split is not used"
  parser.add_argument("--keep-splits", action="store_true", help=text)
  parser.add_argument(
    "--split",
    default="0.85,0.05,0.10",
    metavar="SHARES",
    help="parts of the text for train,validation,test (default 0.85,0.05,0.10)",
  )
  text = "text in a shard (default 256 MiB)"
  parser.add_argument("--shard-bytes", type=positive, default=2**28, metavar="BYTES", help=text)
  reading = parser.add_argument_group("how documents are read")
  text = "files to read in folders (default .txt,.md,.py)"
  reading.add_argument("--suffixes", default=".txt,.md,.py", metavar="LIST", help=text)
  text = "a document is a file, or the files below a folder joined up to --max-document-bytes"
  reading.add_argument("--document", choices=("file", "folder"), default="file", help=text)
  text = "the largest document (default 16 MiB)"
  reading.add_argument(
    "--max-document-bytes", type=positive, default=2**24, metavar="BYTES", help=text
  )
  reading.add_argument(
    "--group-by",
    choices=("auto", "field", "folder", "document"),
    default="auto",
    help="what goes to one split as a whole: records with the same group field, else what has the "
    "same first folder in its id, else every document alone (auto); or one of these",
  )
  for field in ("text", "id", "group"):
    text = f"field of a record (default {field})"
    reading.add_argument(f"--{field}-field", default=field, metavar="NAME", help=text)
  text = "leave broken documents out and list them"
  reading.add_argument("--skip-broken", action="store_true", help=text)


def published(parser: Parser, min_tokens: int = 0) -> None:
  """Where to, from where, and the tokenizer."""
  preset(parser)
  text = "folder with the published files, local or remote (default: copied to OUT-published)"
  parser.add_argument("--from", dest="place", metavar="FOLDER", help=text)
  _corpus(parser, coverage=0.9995, min_tokens=min_tokens)


def c4_4k(parser: Parser) -> None:
  """The same, of long documents."""
  published(parser, min_tokens=4096)


def _corpus(parser: Parser, *, coverage: float, min_tokens: int = 0) -> None:
  """The tokenizer of a corpus, and what it makes too short."""
  tokenizer = parser.add_mutually_exclusive_group(required=True)
  text = "tokenizer that counts the tokens; one of sentencepiece may be remote and is copied"
  tokenizer.add_argument("--tokenizer", metavar="PATH", help=text)
  tokenizer.add_argument(
    "--train-tokenizer", type=positive, metavar="VOCAB", help="train one of so many pieces"
  )
  _tokenizer_type(parser)
  text = "part of the characters that have a piece in a trained one; the others are spelled in "
  text += f"bytes (default {coverage:g})"
  parser.add_argument(
    "--character-coverage", type=share, default=coverage, metavar="PART", help=text
  )
  text = f"leave documents with fewer tokens out (default {min_tokens})"
  parser.add_argument("--min-tokens", type=int, default=min_tokens, metavar="N", help=text)


def _tokenizer_type(parser: Parser) -> None:
  kinds = ("sentencepiece", "tiktoken", "huggingface")
  parser.add_argument("--tokenizer-type", choices=kinds, default=kinds[0])


def padding(parser: Parser) -> None:
  """Documents and the sizes of a batch."""
  parser.add_argument("files", help="documents, as for grain_train_files")
  parser.add_argument("--tokenizer", metavar="PATH", required=True)
  _tokenizer_type(parser)
  for name, text in (
    ("--rows", "of the whole batch"),
    ("--window", "melodi_window_length"),
    ("--segment", "max_target_length"),
  ):
    parser.add_argument(name, type=positive, required=True, metavar="N", help=text)
