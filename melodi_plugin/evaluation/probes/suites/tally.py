"""Right answers by task, length and distance, with intervals over texts; table and picture."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import PercentFormatter

from melodi_plugin.evaluation.probes.result import doubling_ranges, rate_interval
from melodi_plugin.output.figures import new_figure, png, style
from melodi_plugin.output.tables import Table


class Scored(NamedTuple):
  """One right answer, against the wrong ones."""

  task: str
  length: int  # tokens that the text was made for
  text: int  # number of the text
  distance: int  # windows since the earliest fact that it needs
  hit: bool  # likelier than all wrong answers
  nats: float
  chance: float
  written: bool | None  # whether what the model wrote begins with it or another; None: not asked


def rates(answers: Sequence[Scored]) -> dict[str, Any]:
  """Count, accuracy and its interval over texts, nats, chance."""
  texts = sorted({answer.text for answer in answers})
  place = {text: number for number, text in enumerate(texts)}
  own = np.array([place[answer.text] for answer in answers])
  hits = np.array([answer.hit for answer in answers], np.float64)
  counts = np.bincount(own).astype(np.float64)
  low, high = rate_interval(np.bincount(own, hits), counts)
  nats = float(np.mean([answer.nats for answer in answers]))
  written = [answer.written for answer in answers if answer.written is not None]
  return {
    "count": len(answers),
    "texts": len(texts),
    "accuracy": float(hits.mean()),
    "low": low,
    "high": high,
    "nats": nats if math.isfinite(nats) else None,
    "chance": float(np.mean([answer.chance for answer in answers])),
    "written": float(np.mean(written)) if written else None,
  }


def by_distance(answers: Sequence[Scored]) -> list[dict[str, Any]]:
  """The points of a probe's result; see `probes/result`."""
  found = []
  for first, last in doubling_ranges(max(answer.distance for answer in answers)):
    inside = [answer for answer in answers if first <= answer.distance <= last]
    if inside:
      found.append({"from": first, "to": last} | rates(inside))
  return found


def by_task(answers: Sequence[Scored]) -> list[dict[str, Any]]:
  """A line per task and length, in the order in which they come, each with its points."""
  keys = dict.fromkeys((answer.task, answer.length) for answer in answers)
  found = []
  for task, length in keys:
    own = [answer for answer in answers if (answer.task, answer.length) == (task, length)]
    found.append({"task": task, "length": length} | rates(own) | {"points": by_distance(own)})
  return found


def table(results: Sequence[dict[str, Any]], names: Sequence[str]) -> Table:
  """A line per task and length: chance, and right answers of every result with their interval."""
  rows: dict[tuple[str, int], list[str]] = {}
  for number, result in enumerate(results):
    for row in result["tasks"]:
      key = (row["task"], row["length"])
      first = [row["task"], f"{row['length']:,}", f"{row['chance']:.0%}"]
      rows.setdefault(key, first + ["-"] * len(results))[3 + number] = _cell(row)
  header = ["task", "tokens", "chance", *(names if len(names) > 1 else ["right (95 % interval)"])]
  return Table(f"Probe {results[0]['probe']}: right by task", header, list(rows.values()))


def _cell(row: dict[str, Any]) -> str:
  text = f"{row['accuracy']:.0%} ({row['low']:.0%} to {row['high']:.0%})"
  return text if row["written"] is None else f"{text}, written {row['written']:.0%}"


def _lengths(result: dict[str, Any]) -> list[int]:
  return sorted({row["length"] for row in result["tasks"]})


def picture(result: dict[str, Any]) -> bytes:
  """Right answers of every task, a curve per length."""
  tasks = list(dict.fromkeys(row["task"] for row in result["tasks"]))
  figure, [axes] = new_figure(4.5)
  for number, length in enumerate(_lengths(result)):
    rows = [row for row in result["tasks"] if row["length"] == length]
    y = np.array([row["accuracy"] for row in rows])
    errors = [y - [row["low"] for row in rows], [row["high"] for row in rows] - y]
    places = [tasks.index(row["task"]) for row in rows]
    looks = {"linestyle": "none", "capsize": 2, "label": f"{length:,} tokens", **style(number)}
    axes.errorbar(np.array(places) + 0.1 * number, y, np.maximum(errors, 0), **looks)
  chances = {row["task"]: row["chance"] for row in result["tasks"]}
  for task, chance in chances.items():
    place = tasks.index(task)
    axes.plot([place - 0.2, place + 0.6], [chance] * 2, color="0.5", linewidth=1, linestyle=":")
  axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
  axes.set_ylim(-0.03, 1.03)
  axes.set_ylabel("right answers (dotted: chance)")
  axes.yaxis.set_major_formatter(PercentFormatter(1))
  return png(figure)


def table_csv(result: dict[str, Any]) -> str:
  """A line per task, length and range of distances; those without a range are of all distances."""
  text = io.StringIO()
  columns = ("count", "texts", "accuracy", "low", "high", "nats", "chance", "written")
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["probe", "memory", "task", "length", "from", "to", *columns])
  for row in result["tasks"]:
    own: Iterable[Any] = (result["probe"], result["memory"], row["task"], row["length"])
    for point in [row, *row["points"]]:
      where = [point.get("from"), point.get("to")]
      writer.writerow([*own, *where, *(point[column] for column in columns)])
  return text.getvalue()
