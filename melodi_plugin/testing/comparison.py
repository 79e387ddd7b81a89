"""Rows and results for tests of this package, as MaxText would have left them."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from melodi_plugin.compare.request import Request
from melodi_plugin.compare.results import Result
from melodi_plugin.compare.runs import Row
from melodi_plugin.evaluation import statistics as scores

SIZES = {
  "parameters": 1000,
  "embedding_parameters": 100,
  "memory_short": 64,
  "memory_long": 128,
  "memory_all": 192,
  "training_flops_per_token": 6000.0,
}
SETTINGS = {
  "steps": 4,
  "global_batch_size_to_train_on": 2,
  "max_target_length": 64,
  "grain_train_files": "train.jsonl",
  "grain_eval_files": "test.jsonl",
  "learning_rate": 0.1,
}


def make_row(name: str = "memory", changed: Sequence[str] = (), **sizes: Any) -> Row:
  """A row; with each of `changed` it carries twice the memory."""
  own = SIZES | sizes
  more = own | {"memory_all": 2 * own["memory_all"]}
  return Row(name, f"{name}.yml", ("steps=4",), SETTINGS, own, dict.fromkeys(changed, more))


def make_request(*names: str, seeds: Sequence[int] = (0,)) -> Request:
  """A request for rows."""
  configs = tuple(f"{name}.yml" for name in names)
  return Request(configs, ("steps=4",), tuple(seeds), pathlib.Path("out"), "", ())


def make_evaluation(nats: float, tokens: int = 50) -> dict[str, Any]:
  """What `evaluation.json` holds for three documents, each a bit harder than the one before."""
  documents = []
  for index in range(3):
    losses = np.full(tokens + 10 * index, nats + 0.1 * index, np.float32)
    documents.append(
      scores.score_document(index, f"play {index}", "be " * 40, losses, losses > 0, window=16)
    )
  return scores.summarise(documents) | {"window": 16, "memory": "carried"}


def make_result(row: Row, seed: int, nats: float, **measured: Any) -> Result:
  """What a finished run measured."""
  own = {
    "row": row.name,
    "seed": seed,
    "tokens_per_second": 100.0 + seed,
    "trained_tokens": 480,
    "peak_host_bytes": 2**30,
    "peak_device_bytes": None,
    "seconds": 9.0,
    "losses": [[step, nats + 1 / (1 + step)] for step in range(4)],
    "evaluation": make_evaluation(nats),
    "evaluated_with": {argument: make_evaluation(nats - 0.1) for argument in row.changed},
  }
  return own | measured
