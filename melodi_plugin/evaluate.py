"""`python -m melodi_plugin.evaluate config.yml load_parameters_path=.../items [key=value ...]`

Reads the documents of `grain_eval_files` whole, in order, with memory carried from zeros, and
writes `evaluation.json` into `<base_output_directory>/<run_name>`.  Every token of a document but
its first is scored exactly once.  `melodi_reset_every_window=true` is the control: the same model,
which forgets at every window, written to `evaluation_reset_every_window.json`.
"""

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, logging
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from melodi_plugin.launch import load_config, stop

_FIELDS = ("inputs", "inputs_position", "inputs_segmentation", "targets", "targets_segmentation")


def token_nats(
  graphdef: Any, params: Any, rest: Any, batch: dict[str, jax.Array]
) -> tuple[jax.Array, Any]:
  """Nats of every target (B, T), 0 where there is none, and the state with the memory after."""
  model = nnx.merge(graphdef, params, rest, copy=True)
  logits = model(
    batch["inputs"],
    batch["inputs_position"],
    decoder_segment_ids=batch["inputs_segmentation"],
    enable_dropout=False,
  ).astype(jnp.float32)
  target = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
  nats = jax.nn.logsumexp(logits, axis=-1) - target
  nats = jnp.where(batch["targets_segmentation"] > 0, nats, 0.0)
  return nats, nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.Intermediate)))


def read_documents(config: Any) -> list[dict[str, Any]]:
  """Reads all documents with the checkpoint of `config`.

  Returns:
    One dict per document: id, tokens (scored), nats, perplexity.
  """
  from maxtext.common.common_types import MODEL_MODE_TRAIN
  from maxtext.utils import maxtext_utils, model_creation_utils, sharding

  from melodi_plugin.data.pipeline import make_document_batches

  mesh = maxtext_utils.get_mesh_from_config(config)
  batches = make_document_batches(
    config, config.grain_eval_files, rows=config.micro_batch_size_to_train_on
  )
  try:
    model = model_creation_utils.from_pretrained(config, mesh, model_mode=MODEL_MODE_TRAIN)
  except ValueError as error:  # no checkpoint there, or one of another model
    stop(str(error))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  rest = jax.tree.map(jnp.zeros_like, rest)  # memory from zeros; dropout is off
  step = jax.jit(token_nats, static_argnums=0, donate_argnums=2)
  placement = sharding.get_input_data_sharding(config, mesh)
  ids = [document.id for document in batches.source]
  nats, tokens, seen = np.zeros(len(ids)), np.zeros(len(ids), int), np.zeros(len(ids), int)

  columns = (TextColumn("reading documents"), BarColumn(), MofNCompleteColumn())
  with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
    task = progress.add_task("documents", total=len(ids))
    for batch in batches:
      with jax.set_mesh(mesh):
        on_device = jax.device_put({name: batch[name] for name in _FIELDS}, placement)
        each, rest = step(graphdef, params, rest, on_device)
      of_text = batch["inputs_segmentation"] > 0
      owner = batch["document_index"][of_text]
      scored = batch["targets_segmentation"][of_text] > 0
      nats += np.bincount(owner, np.asarray(each, np.float64)[of_text], len(ids))
      tokens += np.bincount(owner, scored, len(ids)).astype(int)
      seen += np.bincount(owner, minlength=len(ids))
      progress.update(task, completed=int((seen == tokens + 1).sum()) if tokens.any() else 0)
  if not np.array_equal(tokens, seen - 1):
    raise AssertionError("a token was scored twice or not at all; this is a bug of melodi_plugin")
  return [
    {"id": name, "tokens": int(n), "nats": float(total), "perplexity": math.exp(total / n)}
    for name, n, total in zip(ids, tokens, nats, strict=True)
  ]


def summarise(documents: list[dict[str, Any]], config: Any) -> dict[str, Any]:
  """The content of `evaluation.json`."""
  tokens = sum(document["tokens"] for document in documents)
  nats = sum(document["nats"] for document in documents)
  spread = sorted(document["perplexity"] for document in documents)
  return {
    "memory": "reset at every window" if config.melodi_reset_every_window else "carried",
    "checkpoint": str(config.load_parameters_path),
    "files": config.grain_eval_files,
    "tokens": tokens,
    "nats": nats,
    "nats_per_token": nats / tokens,
    "perplexity": math.exp(nats / tokens),
    "perplexity_per_document": {
      "min": spread[0],
      "median": statistics.median(spread),
      "max": spread[-1],
      "standard_deviation": statistics.pstdev(spread),
    },
    "documents": documents,
  }


def show(result: dict[str, Any], path: pathlib.Path) -> None:
  """Prints the table of an evaluation."""
  table = Table(title=f"Perplexity, memory {result['memory']}")
  table.add_column("document")
  table.add_column("scored tokens", justify="right")
  table.add_column("perplexity", justify="right")
  for document in result["documents"]:
    table.add_row(document["id"], f"{document['tokens']:,}", f"{document['perplexity']:.2f}")
  table.add_section()
  table.add_row("all", f"{result['tokens']:,}", f"{result['perplexity']:.2f}")
  Console().print(table)
  print(f"written to {path}", flush=True)


def evaluate(argv: Sequence[str]) -> dict[str, Any]:
  """Evaluates the checkpoint that the arguments name; returns what `evaluation.json` holds."""
  config = load_config(argv)
  if not config.load_parameters_path:
    stop(
      "load_parameters_path is not set, so there is no model to evaluate; add "
      "load_parameters_path=<run>/checkpoints/<step>/items."
    )
  if not config.grain_eval_files:
    stop(
      "grain_eval_files is not set, so there is nothing to read; add grain_eval_files=<folder or "
      "file of documents>."
    )
  if jax.process_count() > 1:
    stop("evaluation reads documents in one process; run it on one host.")
  result = summarise(read_documents(config), config)
  control = "_reset_every_window" if config.melodi_reset_every_window else ""
  path = pathlib.Path(config.base_output_directory) / config.run_name / f"evaluation{control}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
  show(result, path)
  return result


def main(argv: Sequence[str]) -> None:
  """Command line of `evaluate`."""
  logging.set_verbosity(logging.WARNING)
  evaluate(argv)


if __name__ == "__main__":
  app.run(main)
