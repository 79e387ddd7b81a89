"""How the probes read: a checkpoint scores whole documents, with memory carried."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from grain.sources import RandomAccessDataSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.data.documents import Document
from melodi_plugin.evaluation.conditions import memory_of, step_of
from melodi_plugin.evaluation.reading import ScoredDocument, Scorer
from melodi_plugin.maxtext.pipeline import make_document_batches
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
  queues = [layer.queue_tokens for layer in MelodiConfig.from_maxtext(config).layers]
  return {
    "probe": config.melodi_probe,
    "run": config.run_name,
    "memory": memory,
    "checkpoint": checkpoint,
    "step": step_of(checkpoint),
    "window": config.melodi_window_length,
    "queue": config.melodi_long_term_windows if memory == "carried" and any(queues) else 0,
  }


def read(
  config: Any, documents: Sequence[Document] | RandomAccessDataSource[Document]
) -> Iterator[ScoredDocument]:
  """Every document once it is read to its end, with a progress bar."""
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
      yield document
