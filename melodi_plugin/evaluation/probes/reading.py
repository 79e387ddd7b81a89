"""How the probes read: a checkpoint scores whole documents, with memory carried."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from grain.sources import RandomAccessDataSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.data.documents import Document, DocumentSource
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.conditions import memory_of, step_of
from melodi_plugin.evaluation.reading import ScoredDocument, Scorer
from melodi_plugin.maxtext.loading import with_keys
from melodi_plugin.maxtext.pipeline import make_document_batches, open_source
from melodi_plugin.maxtext.weights import find_checkpoints


def conditions(config: Any) -> dict[str, Any]:
  """What was probed: the part of a result that all probes share.

  Raises:
    ValueError: if `load_parameters_path` does not name one checkpoint.
  """
  checkpoint, *more = find_checkpoints(config.load_parameters_path)
  if more:
    raise ValueError("a probe reads with one checkpoint; name one in load_parameters_path.")
  memory = memory_of(config)
  return {
    "probe": config.melodi_probe,
    "run": config.run_name,
    "memory": memory,
    "checkpoint": checkpoint,
    "step": step_of(checkpoint),
    "window": config.melodi_window_length,
    "queue": _queue(config) if memory == "carried" else 0,
  }


def _queue(config: Any) -> int:
  layers = MelodiConfig.from_maxtext(config).layers
  return config.melodi_long_term_windows if any(layer.queue_tokens for layer in layers) else 0


class Tokens:
  """Counts tokens, so that a result can say that none was left out.

  Attributes:
    given: of the documents, as the tokenizer makes them.
    read: of them, by the model.
  """

  def __init__(self) -> None:
    self.given = self.read = 0

  def counted(self) -> dict[str, int]:
    """The part of a result that says it."""
    return {"tokens": self.given, "tokens_read": self.read}


def read(
  config: Any,
  documents: Sequence[Document] | RandomAccessDataSource[Document],
  tokens: Tokens,
) -> Iterator[ScoredDocument]:
  """Every document once it is read to its end, with a progress bar.

  Args:
    config: of the model, with its checkpoint.
    documents: what is read.
    tokens: counts them.

  Raises:
    AssertionError: if a document has other tokens than were read.
  """
  tokenize = Tokenizer(config)
  columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
  source: Any = documents
  batches = make_document_batches(config, source, rows=int(config.micro_batch_size_to_train_on))
  scorer = Scorer(config, rows=batches.order.rows)
  with (
    contextlib.closing(batches),
    Progress(*columns, console=Console(stderr=True), transient=True) as progress,
  ):
    total = len(batches.source)
    task = progress.add_task(f"probe {config.melodi_probe}: {total:,} documents", total=total)
    for document in scorer.score(batches):
      progress.advance(task)
      given, own = len(tokenize(document.text)), len(document.tokens)
      if given != own:
        raise AssertionError(
          f"{document.id}: {own} of {given} tokens were read; this is a bug of melodi_plugin"
        )
      tokens.given, tokens.read = tokens.given + given, tokens.read + own
      yield document


def read_twice(
  config: Any, documents: RandomAccessDataSource[Document], tokens: Tokens
) -> Iterator[tuple[ScoredDocument, ScoredDocument]]:
  """Every document as read with memory, and by the same model that forgets at every window.

  A model without memory is read once.

  Raises:
    ValueError: if the config itself asks to forget.
  """
  if config.melodi_reset_every_window:
    raise ValueError(
      f"the probe {config.melodi_probe} reads with memory and without; leave "
      "melodi_reset_every_window out."
    )
  if memory_of(config) == "none":
    yield from ((document, document) for document in read(config, documents, tokens))
    return
  found = {document.index: document for document in read(config, documents, tokens)}
  forgets = with_keys(config, melodi_reset_every_window=True)
  for document in read(forgets, documents, tokens):
    yield found.pop(document.index), document


def eval_documents(config: Any) -> DocumentSource:
  """The documents of `grain_eval_files`; raises ValueError if the key is not set."""
  if not config.grain_eval_files:
    raise ValueError(
      f"grain_eval_files is not set; the probe {config.melodi_probe} reads its documents: add "
      "grain_eval_files=<folder or file of documents>."
    )
  return open_source(config, config.grain_eval_files, config.eval_data_columns)
