"""Evaluates the checkpoints that a config names.

Reads the documents of `grain_eval_files` whole, in order, with memory carried from zeros.  Every
token of a document but its first is scored exactly once; of conversations (`use_sft` with
`sft_train_on_completion_only`) only the answers' count.  Writes `evaluation.json` (a list, one
entry per checkpoint) into `<base_output_directory>/<run_name>`, and beside it `report.md`,
`report.csv` and two pictures.

`load_parameters_path` may name several checkpoints, joined with ',' or as a glob.
`melodi_write_losses=true` also writes `losses.npz`, the loss of every token of one checkpoint.
`melodi_memory_file` is what a model remembers before every document.
`melodi_reset_every_window=true` is the control: the same model, which forgets at every window,
written to `evaluation_reset_every_window.json`; the report then shows both.  With `melodi_probe`
recall is measured instead of perplexity.
"""

import contextlib
import json
import os
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.data.chat import Conversations, tokenizer_of
from melodi_plugin.data.documents import BrokenDocument, DocumentSource, check_ids
from melodi_plugin.data.read_ahead import TokenReader
from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.evaluation import report, statistics
from melodi_plugin.evaluation.conditions import memory_of, step_of
from melodi_plugin.evaluation.from_memory import MemoryScorer
from melodi_plugin.evaluation.losses import write_losses
from melodi_plugin.evaluation.probes import run
from melodi_plugin.evaluation.reading import ScoredDocument, Scorer
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS
from melodi_plugin.maxtext.loading import check
from melodi_plugin.maxtext.pipeline import make_document_batches, tokens_per_batch
from melodi_plugin.maxtext.weights import find_checkpoints
from melodi_plugin.output.bars import tokens_bar
from melodi_plugin.output.files import check_writable, write_files

_CONDITIONS = ("", "_memory_file", "_reset_every_window")
_LONG = 40  # documents that are listed on the screen


def evaluate_config(config: Any) -> list[dict[str, Any]]:
  """Reads all documents with every checkpoint that `config` names.

  Returns:
    What `evaluation.json` holds: one dict per checkpoint.

  Raises:
    ValueError: for a checkpoint or documents that cannot be read.
  """
  checkpoints = find_checkpoints(config.load_parameters_path)
  if config.melodi_write_losses and len(checkpoints) > 1:
    raise ValueError("melodi_write_losses writes the losses of one checkpoint; name one.")
  for checkpoint in checkpoints:
    check(config, checkpoint)  # now, and not after hours of reading with those before it
  rows = int(config.micro_batch_size_to_train_on)
  batches = make_document_batches(config, config.grain_eval_files, rows=rows)
  with contextlib.closing(batches):
    if isinstance(batches.source, DocumentSource):
      check_ids(batches.source, skip_broken=config.melodi_skip_broken_documents)
    lengths = count_tokens(config, batches.source)
    scorer = _scorer(config, checkpoints[0], batches.order.rows)
    found = []
    for number, checkpoint in enumerate(checkpoints, start=1):
      if number > 1:
        scorer.change_checkpoint(checkpoint)
      label = f"checkpoint {number} of {len(checkpoints)}"
      kept: list[ScoredDocument] = []
      keep = kept.append if config.melodi_write_losses else lambda document: None
      documents, seconds = read_documents(config, scorer, batches, lengths, label, keep)
      if kept:
        write_losses(_losses_path(config), kept)
      broken = len(getattr(batches.source, "broken", ())) + len(lengths) - len(documents)
      own = {"checkpoint": checkpoint, "step": step_of(checkpoint), "skipped": broken}
      use = _utilisation(config, scorer, lengths)
      found.append(
        _conditions(config) | own | statistics.summarise(documents) | use | {"seconds": seconds}
      )
  return found


def _scorer(config: Any, checkpoint: str, rows: int) -> Any:
  if config.melodi_memory_file:
    return MemoryScorer(config, rows=rows)
  return Scorer(config, checkpoint, rows=rows)


def _conditions(config: Any) -> dict[str, Any]:
  return {
    "run": config.run_name,
    "memory": memory_of(config),
    "files": config.grain_eval_files,
    "window": config.melodi_window_length,
    "chunk": None if is_melodi(config) else int(config.max_target_length),
    "new": tokens_per_batch(config),
    "scored": "answers" if config.use_sft and config.sft_train_on_completion_only else "all",
  }


def count_tokens(config: Any, source: Any) -> list[int]:
  """Tokens of every document, 0 for broken ones if they are left out; else raises ValueError."""
  reader = TokenReader(source, tokenizer_of(config))
  lengths = []
  for index in range(len(source)):
    tokens = reader(index)
    if isinstance(tokens, BrokenDocument):
      if not config.melodi_skip_broken_documents:
        raise tokens
      lengths.append(0)
    else:
      lengths.append(len(tokens.ids))
  return lengths


def read_documents(
  config: Any,
  scorer: Any,
  batches: Any,
  lengths: list[int],
  description: str,
  keep: Callable[[ScoredDocument], None] = lambda document: None,
) -> tuple[list[statistics.DocumentScore], float]:
  """Scores every document once, with a progress bar that counts tokens.

  Returns:
    The scores, and the seconds it took.

  Raises:
    AssertionError: if a document has not as many losses as tokens less one.
  """
  began, tokenize = time.monotonic(), tokenizer_of(config)
  found: dict[int, statistics.DocumentScore] = {}
  with tokens_bar(description, sum(lengths), shown=jax.process_index() == 0) as advance:
    for document in scorer.score(batches, advance):
      if document.index in found or len(document.nats) != lengths[document.index] - 1:
        raise AssertionError(
          f"{document.id}: {len(document.nats)} losses for {lengths[document.index]} tokens, or "
          "scored twice; this is a bug of melodi_plugin"
        )
      keep(document)
      text, scored = _what_counts(tokenize, document.text)
      found[document.index] = statistics.score_document(
        document.index,
        document.id,
        text,
        document.nats,
        document.hits,
        window=config.melodi_window_length,
        scored=scored,
      )
  for others in _gather(found):
    found |= others
  if len(found) < len(lengths) and not config.melodi_skip_broken_documents:
    raise AssertionError("a document was not read; this is a bug of melodi_plugin")
  return list(found.values()), time.monotonic() - began


def _what_counts(tokenize: Any, text: str) -> tuple[str, np.ndarray | None]:
  """The text that is scored, and which of the targets, bool [N-1]; None for all."""
  if not isinstance(tokenize, Conversations):
    return text, None
  _, scored = tokenize.with_scored(text)
  return tokenize.scored_text(text), None if scored is None else scored[1:]


def _gather(
  found: dict[int, statistics.DocumentScore],
) -> list[dict[int, statistics.DocumentScore]]:
  """What every process has found."""
  if jax.process_count() == 1:
    return [found]
  own = np.frombuffer(pickle.dumps(found), np.uint8)
  sizes = np.ravel(multihost_utils.process_allgather(np.asarray(own.size)))
  padded = np.pad(own, (0, int(sizes.max()) - own.size))
  everywhere = multihost_utils.process_allgather(padded)
  return [pickle.loads(row[:size].tobytes()) for row, size in zip(everywhere, sizes, strict=True)]


def _utilisation(config: Any, scorer: Any, lengths: list[int]) -> dict[str, Any]:
  batches, segment = scorer.batches_read, scorer.segment
  slots = batches * scorer.rows
  computed = segment if is_melodi(config) else int(config.max_target_length)
  shares = {
    "rows": scorer.rows,
    "batches": batches,
    "share": sum(lengths) / (slots * segment),
    "computed": slots * computed / sum(lengths),
    "padded_share": statistics.padded_share(lengths, scorer.rows, segment),
  }
  return {"utilisation": shares}


# -- What it leaves --------------------------------------------------------------------------------


def _condition(config: Any) -> str:
  """What the names of its files end in, so that those of one condition leave others alone."""
  if config.melodi_reset_every_window:
    return _CONDITIONS[2]
  return _CONDITIONS[1] if config.melodi_memory_file else _CONDITIONS[0]


def _losses_path(config: Any) -> str:
  name = f"losses{_condition(config)}.npz"
  return os.path.join(config.base_output_directory, config.run_name, name)


def write(config: Any, evaluations: list[dict[str, Any]]) -> None:
  """Writes the JSON, and a report of what this run has on the same checkpoints and documents."""
  folder = os.path.join(config.base_output_directory, config.run_name)
  own = f"evaluation{_condition(config)}.json"
  text = json.dumps(evaluations, indent=2, allow_nan=False) + "\n"
  write_files(folder, {own: text.encode()})
  shown = []
  for condition in _CONDITIONS:
    try:
      found = report.read_evaluations(os.path.join(folder, f"evaluation{condition}.json"))
    except ValueError:  # not there, or of an earlier version
      continue
    shown += found if _read_alike(found, evaluations) else []
  report.write_report(shown, folder)
  show(shown)
  print(f"written to {folder}: {own}, report.md, report.csv, two pictures", flush=True)


def _read_alike(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
  def read(evaluations: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    # Versions before 0.2 scored all tokens and did not say so.
    own = ("checkpoint", "files", "window")
    return [(*(e[key] for key in own), e.get("scored", "all")) for e in evaluations]

  return read(some) == read(others)


def show(evaluations: list[dict[str, Any]]) -> None:
  """Prints the tables of a report."""
  for table in report.tables(evaluations):
    table._replace(rows=table.rows[:_LONG]).show()
  for warning in report.warnings(evaluations):
    print(warning)


def evaluation_config(argv: Sequence[str]) -> Any:
  """The config of an evaluation, which reads grain_eval_files and asks for no training files."""
  return load_config([*argv, WITHOUT_DOCUMENTS, "melodi_documents_in_rows=true"])


def evaluate(argv: Sequence[str]) -> Any:
  """Evaluates the checkpoints that the arguments name; returns what `evaluation.json` holds."""
  config = evaluation_config(argv)
  if not config.load_parameters_path:
    raise UserError(
      "load_parameters_path is not set, so there is no model to evaluate; add "
      "load_parameters_path=<run>/checkpoints/<step>/items."
    )
  if jax.process_index() == 0:
    with user_errors(OSError):  # now, and not after hours of reading
      check_writable(os.path.join(config.base_output_directory, config.run_name, "evaluation.json"))
  if config.melodi_probe:
    if config.use_sft:
      raise UserError("probes read documents and no conversations; set use_sft=false.")
    if config.melodi_memory_file:
      raise UserError("melodi_probe reads with memory from zeros; leave melodi_memory_file out.")
    if jax.process_count() > 1:
      raise UserError("probes read their documents in one process; run them on one host.")
    return run.run(config)
  if config.melodi_write_losses and jax.process_count() > 1:
    raise UserError("melodi_write_losses writes from one process; evaluate on one host.")
  if config.melodi_memory_file and jax.process_count() > 1:
    raise UserError("melodi_memory_file is read from in one process; evaluate on one host.")
  if not config.grain_eval_files:
    raise UserError(
      "grain_eval_files is not set, so there is nothing to read; add grain_eval_files=<folder or "
      "file of documents>."
    )
  try:
    evaluations = evaluate_config(config)
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error
  if jax.process_index() == 0:
    write(config, evaluations)
  return evaluations
