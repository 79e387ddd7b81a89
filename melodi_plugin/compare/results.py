"""All runs of a row as one result: means and spread over seeds, change against the first row."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.compare.runs import Result, Row
from melodi_plugin.evaluation.report import Evaluation
from melodi_plugin.evaluation.statistics import RATES, Change, change, perplexity

SPREAD = (0.1, 0.9)  # quantiles of the perplexities of single documents


class Over(NamedTuple):
  """A number over seeds."""

  mean: float
  deviation: float | None  # sample standard deviation; None for one seed
  low: float
  high: float


class Changed(NamedTuple):
  """A trained row, read with a key changed."""

  argument: str  # key=value
  sizes: Mapping[str, Any]
  perplexity: Over | None


class RowResult(NamedTuple):
  """Everything about one row, whose runs differ only in the seed."""

  row: Row
  results: list[Result]  # by seed
  evaluation: Evaluation  # the mean over seeds of every loss
  perplexity: Over | None  # None if a loss is not a finite number
  documents: tuple[float, float] | None  # SPREAD of the documents of `evaluation`
  change: Change | None  # of the perplexity against the first row
  changed: list[Changed]

  @property
  def tokens_per_second(self) -> float:
    """Median over seeds."""
    return statistics.median(result["tokens_per_second"] for result in self.results)

  @property
  def peak_bytes(self) -> tuple[int, str]:
    """The most memory that a seed took, and whose it is: 'device' or 'host'."""
    kind = "host" if self.results[0]["peak_device_bytes"] is None else "device"
    return max(result[f"peak_{kind}_bytes"] or 0 for result in self.results), kind


def over(values: Sequence[float | None]) -> Over | None:
  """Mean, deviation and range of one number per seed; None if a seed has none."""
  numbers = [value for value in values if value is not None]
  if len(numbers) < len(values):
    return None
  deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
  return Over(statistics.fmean(numbers), deviation, min(numbers), max(numbers))


def mean_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation:
  """Evaluations of the same tokens as one, whose losses are the means of theirs."""
  first = evaluations[0]
  return {
    **_mean(evaluations),
    "documents": [_mean(same) for same in zip(*(e["documents"] for e in evaluations), strict=True)],
    "positions": [_mean(same) for same in zip(*(e["positions"] for e in evaluations), strict=True)],
    "window": first["window"],
    "memory": first["memory"],
  }


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  kept = {key: rows[0][key] for key in ("id", "from", "to", "tokens") if key in rows[0]}
  mean = over([row["nats"] for row in rows])
  if mean is None:
    return kept | {"nats": None, "perplexity": None}
  return kept | {"nats": mean.mean, "perplexity": perplexity(mean.mean / kept["tokens"])}


def put_together(rows: Sequence[Row], results: Sequence[Result]) -> list[RowResult]:
  """Groups what the runs measured by row; a row without any finished run is left out."""
  found: list[RowResult] = []
  by_row = [[result for result in results if result["row"] == row.name] for row in rows]
  for row, own in zip(rows, by_row, strict=True):
    if not own:
      continue
    evaluation = mean_evaluation([result["evaluation"] for result in own])
    found.append(
      RowResult(
        row=row,
        results=own,
        evaluation=evaluation,
        perplexity=over([result["evaluation"]["perplexity"] for result in own]),
        documents=_spread(evaluation),
        change=None if row is rows[0] else _change(own, by_row[0]),
        changed=_changed(row, own),
      )
    )
  return found


def _changed(row: Row, own: Sequence[Result]) -> list[Changed]:
  """The row read with each key changed, over the seeds whose evaluation has not failed."""
  found = []
  for argument, sizes in row.changed.items():
    every = [result["evaluated_with"].get(argument) for result in own]
    perplexities = [evaluation["perplexity"] for evaluation in every if evaluation]
    if perplexities:
      found.append(Changed(argument, sizes, over(perplexities)))
  return found


def _spread(evaluation: Evaluation) -> tuple[float, float] | None:
  found = [d["perplexity"] for d in evaluation["documents"] if d["perplexity"] is not None]
  if not found:
    return None
  low, high = np.quantile(found, SPREAD)
  return float(low), float(high)


def _change(own: Sequence[Result], first: Sequence[Result]) -> Change | None:
  """Change of the perplexity over the seeds that both rows have."""
  seeds = {result["seed"] for result in own} & {result["seed"] for result in first}
  if not seeds:
    return None
  evaluation, base = (
    mean_evaluation([result["evaluation"] for result in results if result["seed"] in seeds])
    for results in (own, first)
  )
  return change(evaluation, base)


def per_seed(found: RowResult) -> list[dict[str, Any]]:
  """A line per seed, and per key=value it was evaluated with; numbers only."""
  lines = []
  for result in found.results:
    own = {key: result[key] for key in ("row", "seed")}
    same = {key: result[key] for key in _MEASURED}
    same["seconds_of_last_process"] = result["seconds"]  # of training that was resumed or not
    sizes = dict(found.row.sizes)
    rates = {key: result["evaluation"][key] for key in RATES}
    lines.append(own | {"evaluated_with": ""} | sizes | same | rates)
    for changed in found.changed:
      evaluation = result["evaluated_with"].get(changed.argument)
      if evaluation is None:  # failed
        continue
      rates = {key: evaluation[key] for key in RATES}
      sizes = dict(changed.sizes)
      lines.append(own | {"evaluated_with": changed.argument} | sizes | same | rates)
  return lines


_MEASURED = (
  "tokens_per_second",
  "trained_tokens",
  "peak_host_bytes",
  "peak_device_bytes",
)
