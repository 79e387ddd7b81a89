"""The same tokens read with memory and without: what memory is worth, by distance.

Without memory the same model forgets at every window.  Intervals are over documents, which are
resampled in pairs.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FixedLocator

from melodi_plugin.evaluation.probes.result import distance_name, rate_interval
from melodi_plugin.evaluation.statistics import mean_interval
from melodi_plugin.output.figures import new_figure, plain, png, style
from melodi_plugin.output.tables import Table


class Pair(NamedTuple):
  """Some tokens of a document, read twice."""

  document: int
  distance: int  # in windows
  hit: bool  # with memory all of them were the first choice
  on: float  # nats of all of them, with memory
  off: float  # without


def rates(pairs: Sequence[Pair]) -> dict[str, Any]:
  """Means of both readings, and of their difference, with intervals over documents.

  `accuracy` and `nats` are with memory, as in every probe; `gain` is nats without memory less nats
  with it, so above 0 where memory helps.
  """
  columns = np.array(pairs, np.float64)
  documents = np.unique(columns[:, 0], return_inverse=True)[1]
  counts = np.bincount(documents).astype(np.float64)

  def within(values: np.ndarray) -> list[float] | None:
    return mean_interval(np.bincount(documents, values), counts)

  hits, on, off = columns[:, 2], columns[:, 3], columns[:, 4]
  low, high = rate_interval(np.bincount(documents, hits), counts)
  return {
    "count": len(pairs),
    "documents": len(counts),
    "accuracy": float(hits.mean()),
    "low": low,
    "high": high,
    "nats": _finite(on.mean()),
    "nats_without": _finite(off.mean()),
    "gain": _finite((off - on).mean()),
    "gain_interval": within(off - on),
  }


def _finite(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def points(pairs: Sequence[Pair], ranges: Iterable[tuple[int, int]]) -> list[dict[str, Any]]:
  """The points of a probe's result at the (first, last) distances that have a pair."""
  found = []
  for first, last in ranges:
    inside = [pair for pair in pairs if first <= pair.distance <= last]
    if inside:
      found.append({"from": first, "to": last} | rates(inside))
  return found


def table(results: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
  """A line per result and distance: both readings, and what memory is worth."""
  lines = []
  for name, result in zip(names, results, strict=True):
    first = [("first use", result["first_use"])] if "first_use" in result else []
    for place, point in first + [(distance_name(point), point) for point in result["points"]]:
      own = [name, place, f"{point['count']:,}", f"{point['documents']:,}"]
      both = [_number(point["nats"]), _number(point["nats_without"])]
      lines.append([*own, *both, _gain(point)])
  header = ["", "windows", "count", "documents", "nats", "nats without memory"]
  header.append("memory is worth (95 %)")
  return Table(f"Probe {results[0]['probe']}: with memory and without", header, lines)


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.3f}"


def _gain(point: dict[str, Any]) -> str:
  if point["gain"] is None:
    return "-"
  if point["gain_interval"] is None:
    return f"{point['gain']:+.3f}"
  low, high = point["gain_interval"]
  return f"{point['gain']:+.3f} ({low:+.3f} to {high:+.3f})"


def picture(results: Sequence[dict[str, Any]], names: Sequence[str]) -> bytes:
  """What memory is worth against distance, a curve per result, with its interval."""
  figure, [axes] = new_figure(4.0)
  places = sorted({(p["from"], p["to"]) for result in results for p in result["points"]})
  for number, (result, name) in enumerate(zip(results, names, strict=True)):
    curve = [point for point in result["points"] if point["gain"] is not None]
    x = [places.index((point["from"], point["to"])) for point in curve]
    axes.plot(x, [point["gain"] for point in curve], label=plain(name), **style(number))
    bounds = [point["gain_interval"] or [point["gain"]] * 2 for point in curve]
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    axes.fill_between(x, low, high, color=style(number)["color"], alpha=0.15, linewidth=0)
  axes.axhline(0, color="0.5", linewidth=1)
  axes.xaxis.set_major_locator(FixedLocator(range(len(places))))
  ticks = [distance_name({"from": first, "to": last}) for first, last in places]
  axes.set_xticklabels(ticks, rotation=45, ha="right")
  axes.set_xlabel("distance in windows")
  axes.set_ylabel("nats that memory is worth")
  return png(figure)
