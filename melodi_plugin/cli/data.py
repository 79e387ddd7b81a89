"""`melodi data …`: text becomes a corpus that MELODI and MaxText's own Grain path read."""

import argparse
import functools
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from melodi_plugin.data.corpus import corpus_tokenizer, lengths, published
from melodi_plugin.data.corpus.build import Preset, build
from melodi_plugin.data.corpus.corpus_tokenizer import CorpusTokenizer
from melodi_plugin.data.corpus.presets import prepare_corpus
from melodi_plugin.data.corpus.sources import Reading, Sources
from melodi_plugin.data.corpus.split import SPLITS
from melodi_plugin.data.documents import BrokenDocument, open_documents
from melodi_plugin.data.padding import compare
from melodi_plugin.errors import Interrupted, UserError, user_errors
from melodi_plugin.output.tables import Table


def shakespeare(options: argparse.Namespace) -> None:
  """The corpus of the demo."""
  _make(options.out, lambda: prepare_corpus("shakespeare", options.out))


def mqar(options: argparse.Namespace) -> None:
  """The corpus of the recall task."""
  _make(options.out, lambda: prepare_corpus("mqar", options.out))


def recall(options: argparse.Namespace) -> None:
  """The corpus of the delayed recall task."""
  _make(options.out, lambda: prepare_corpus("recall", options.out))


def build_corpus(options: argparse.Namespace) -> None:
  """A corpus of the user's own documents."""
  _make(options.out, lambda: _build(options))


def _published(name: str, options: argparse.Namespace) -> None:
  def made() -> dict[str, Any]:
    tokenizer, wanted = _tokenizer(options)
    preset = published.preset(
      name, options.place, f"{options.out}-published", tokenizer, wanted, options.min_tokens
    )
    command = shlex.join(["melodi", "data", name, *options.words])
    return build(name, preset, options.out, command)

  _make(options.out, made)


pg19, arxiv_math, c4_4k, github_code = (
  functools.partial(_published, name) for name in published.CORPORA
)


def _make(out: str, made: Callable[[], dict[str, Any]]) -> None:
  try:
    with user_errors(ValueError, OSError):
      _report(made(), out)
  except KeyboardInterrupt:
    raise Interrupted(f"{out} was not made") from None


def _build(options: argparse.Namespace) -> dict[str, Any]:
  reading = Reading(
    suffixes=tuple(options.suffixes.split(",")),
    document=options.document,
    max_bytes=options.max_document_bytes,
    group_by=options.group_by,
    text_field=options.text_field,
    id_field=options.id_field,
    group_field=options.group_field,
    skip_broken=options.skip_broken,
    keep_splits=options.keep_splits,
  )
  shares = _shares(options.split)
  sources = Sources(options.source, reading)
  tokenizer, wanted = _tokenizer(options)
  preset = Preset(
    documents=sources,
    tokenizer=tokenizer,
    shares=dict(zip(SPLITS, shares, strict=True)),
    shard_bytes=options.shard_bytes,
    min_tokens=options.min_tokens,
    keep_repeats=options.keep_splits,
    skip_broken=options.skip_broken,
    request={
      "sources": sources.describe(),
      "reading": {key: list(v) if isinstance(v, tuple) else v for key, v in vars(reading).items()},
      "split": list(shares),
      "shard_bytes": options.shard_bytes,
      "min_tokens": options.min_tokens,
      "tokenizer": wanted,
    },
  )
  command = shlex.join(["melodi", "data", "build", *options.words])
  try:
    return build(Path(options.out).resolve().name, preset, options.out, command)
  except BrokenDocument as error:
    raise UserError(f"{error} (--skip-broken leaves such documents out)") from error


def _tokenizer(options: argparse.Namespace) -> tuple[Callable[..., CorpusTokenizer], Any]:
  """What makes the tokenizer, and what tells it from another one."""
  if options.tokenizer:
    loaded = corpus_tokenizer.load(options.tokenizer, options.tokenizer_type)
    return lambda texts: loaded, loaded.description
  wanted = {
    "vocab_size": options.train_tokenizer,
    "character_coverage": options.character_coverage,
  }
  return functools.partial(corpus_tokenizer.train, **wanted), wanted


def _shares(text: str) -> tuple[float, ...]:
  try:
    train, validation, test = (float(share) for share in text.split(","))
    fits = train > 0 and min(validation, test) >= 0 and abs(train + validation + test - 1) < 1e-6
  except ValueError:
    fits = False
  if not fits:
    raise ValueError(
      f"--split {text} is not three parts for {','.join(SPLITS)} that add up to 1, the first "
      "above 0."
    )
  return tuple(float(share) for share in text.split(","))


def show_padding(options: argparse.Namespace) -> None:
  """A table: what of the batches would be padding."""
  if options.segment % options.window:
    raise UserError(
      f"--segment {options.segment} is not a whole number of windows of --window {options.window}; "
      "make it a multiple."
    )
  console = Console(stderr=True)
  with user_errors(ValueError, OSError):
    source = open_documents(options.files)
    count = corpus_tokenizer.load(options.tokenizer, options.tokenizer_type).count
    documents = track(source, "tokenizing", len(source), console=console)
    token_counts = [count(document.text) for document in documents]
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
  columns = ("documents", "groups", "bytes", "words", "tokens", "shards")
  rows = [
    # Older folders have no words.
    [split, *(f"{sizes[column]:,}" if column in sizes else "-" for column in columns)]
    for split, sizes in manifest["splits"].items()
  ]
  Table(f"{manifest['corpus']}: {out}", ("split", *columns), rows).show()
  console = Console()
  console.print(lengths.table({name: s["lengths"] for name, s in manifest["splits"].items()}))
  for key, what in (("duplicates", "the text of an earlier document"), ("skipped", "broken")):
    if number := manifest[key]["documents"]:
      console.print(f"Left out as {what}: {number:,} (manifest.json lists them).")
  if (short := manifest.get("short", {})) and short["documents"]:
    console.print(
      f"Left out as shorter than {short['tokens_below']:,} tokens: {short['documents']:,}."
    )
  for split, words in manifest.get("published", {}).get("words", {}).items():
    if (ours := manifest["splits"][split]["words"]) != words:
      console.print(f"{split}: {ours:,} words here, {words:,} as published.")
