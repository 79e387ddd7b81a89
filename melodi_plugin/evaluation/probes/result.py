"""What a probe finds: right answers and nats against distance.

A point is a distance, or a range of distances, in windows:
`{"from", "to" (inclusive), "count", "accuracy", "low", "high" (95 % of it), "nats"}`.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.evaluation import report
from melodi_plugin.evaluation.statistics import LEVEL, mean_interval
from melodi_plugin.output.tables import Table

Result = dict[str, Any]


class Answer(NamedTuple):
  """Something that could be recalled: one token, or the tokens of one word or key."""

  distance: int  # windows since it was last seen
  hit: bool  # every token was the model's first choice
  nats: float  # of all its tokens


def points(answers: Iterable[Answer], ranges: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
  """The points at the (first, last) distances of `ranges` that have an answer."""
  table = np.array([(a.distance, a.hit, a.nats) for a in answers], np.float64).reshape(-1, 3)
  found = []
  for first, last in ranges:
    inside = table[(table[:, 0] >= first) & (table[:, 0] <= last)]
    if len(inside):
      found.append({"from": first, "to": last} | rates(inside[:, 1], inside[:, 2]))
  return found


def rates(hits: np.ndarray, nats: np.ndarray) -> dict[str, Any]:
  """Count, accuracy with its Wilson interval, and mean nats."""
  count, accuracy = len(hits), float(np.mean(hits))
  low, high = wilson(int(np.sum(hits)), count)
  mean = float(np.mean(nats))
  return {
    "count": count,
    "accuracy": accuracy,
    "low": low,
    "high": high,
    "nats": mean if math.isfinite(mean) else None,
  }


def wilson(hits: int, count: int) -> tuple[float, float]:
  """The 95 % interval of a rate."""
  from scipy.stats import binomtest  # takes seconds to import, and tables are drawn without it

  interval = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
  return float(interval.low), float(interval.high)


def rate_interval(hits: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
  """The same over texts of which each has `counts` answers and `hits` right ones; they resample.

  Where all answers are right, or none, resampling sees no spread: then every text is one answer.
  """
  if len(counts) < 2:
    return 0.0, 1.0  # of one text, all is possible
  if hits.sum() in (0, counts.sum()):
    return wilson(len(counts) if hits.sum() else 0, len(counts))
  low, high = mean_interval(hits, counts) or (0.0, 1.0)
  return low, high


def doubling_ranges(furthest: int) -> list[tuple[int, int]]:
  """0, 1, 2, 3 to 4, 5 to 8, ... windows, up to the one that holds `furthest`."""
  ends = [0, 1]
  while ends[-1] < furthest:
    ends.append(2 * ends[-1])
  return [(0, 0), *((a + 1, b) for a, b in itertools.pairwise(ends))]


# -- Tables ----------------------------------------------------------------------------------------


def distance_name(point: dict[str, Any]) -> str:
  """'3' or '3 to 4'."""
  first, last = point["from"], point["to"]
  return f"{first}" if first == last else f"{first} to {last}"


def table(results: Sequence[Result], names: Sequence[str] | None = None) -> Table:
  """One row per distance, three columns per result."""
  names = report.labels(results) if names is None else names
  rows: dict[tuple[int, int], list[str]] = {}
  lines = [_first_use(results)] if "first_use" in results[0] else []
  for number, result in enumerate(results):
    for point in result["points"]:
      key = (point["from"], point["to"])
      row = rows.setdefault(key, [distance_name(point)] + ["-"] * (3 * len(results)))
      row[1 + 3 * number : 4 + 3 * number] = _cells(point)
  header = [f"{result_name}{column}" for result_name in _prefixes(names) for column in _COLUMNS]
  title = f"Probe {results[0]['probe']}: recall against distance"
  return Table(title, ["windows", *header], lines + [rows[key] for key in sorted(rows)])


_COLUMNS = ("count", "right", "nats")


def _prefixes(names: Sequence[str]) -> list[str]:
  return [""] if len(names) == 1 else [f"{name}: " for name in names]


def _cells(point: dict[str, Any]) -> list[str]:
  nats = "-" if point["nats"] is None else f"{point['nats']:.2f}"
  return [f"{point['count']:,}", f"{point['accuracy']:.1%}", nats]


def _first_use(results: Sequence[Result]) -> list[str]:
  return ["first use", *(cell for result in results for cell in _cells(result["first_use"]))]
