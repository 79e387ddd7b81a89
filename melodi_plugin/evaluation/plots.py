"""The two pictures of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import (
  FixedLocator,
  LogLocator,
  NullLocator,
  PercentFormatter,
  StrMethodFormatter,
)

from melodi_plugin.output.figures import new_figure, plain, png, show_differences, style

Evaluation = Mapping[str, Any]

_TELLING = 0.01  # share of all tokens from which on a bucket says something
_NAMED = 40  # documents that get a line with their name each


def by_position(evaluations: Sequence[Evaluation], names: Sequence[str]) -> bytes:
  """Perplexity against the position of the token in its document, in doubling buckets.

  Of several evaluations a second panel shows the change against the first.
  """
  several = len(evaluations) > 1
  figure, panels = new_figure(6.0 if several else 3.5, rows=2 if several else 1)
  smallest = min(row["to"] for e in evaluations for row in e["positions"])
  ticks = {smallest / 2: "0"}  # a logarithmic axis has no 0
  for number, (evaluation, name) in enumerate(zip(evaluations, names, strict=True)):
    rows = [row for row in evaluation["positions"] if row["perplexity"] is not None]
    ticks |= {row["to"]: f"{row['to']:,}" for row in rows}
    middles = [_middle(row, smallest) for row in rows]
    looks = {"label": plain(name), "linewidth": 1, **style(number)}
    panels[0].plot(middles, [row["perplexity"] for row in rows], **looks)
  _label_perplexity(panels[0])
  if several:
    _changes(panels[1], evaluations, names, smallest)
  lowest = panels[-1]
  lowest.set_xscale("log", base=2)
  lowest.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
  lowest.xaxis.set_minor_locator(NullLocator())
  lowest.set_xticklabels([ticks[place] for place in sorted(ticks)], rotation=45, ha="right")
  lowest.set_xlabel("position of the token in its document")
  return png(figure)


def _changes(
  axes: Axes, evaluations: Sequence[Evaluation], names: Sequence[str], smallest: int
) -> None:
  """Changes of the perplexity against the first evaluation, where the buckets are the same.

  Buckets of few tokens change by chance; they may lie outside of the panel, but do not set its
  height.
  """
  base = {(row["from"], row["to"]): row for row in evaluations[0]["positions"]}
  tokens = sum(row["tokens"] for row in base.values())
  telling: list[float] = []
  for number, (evaluation, name) in enumerate(zip(evaluations, names, strict=True)):
    x, changes = [], []
    for row in evaluation["positions"]:
      other = base.get((row["from"], row["to"]))
      if other is None or None in (row["perplexity"], other["perplexity"]):
        continue
      x.append(_middle(row, smallest))
      changes.append(row["perplexity"] / other["perplexity"] - 1)
      if other["tokens"] >= _TELLING * tokens:
        telling.append(changes[-1])
    axes.plot(x, changes, label=plain(name), linewidth=1, **style(number))
  show_differences(axes, telling)
  axes.yaxis.set_major_formatter(PercentFormatter(1))
  axes.set_ylabel(f"change against\n{plain(shortened(names[0]))}")


def _middle(row: Mapping[str, Any], smallest: int) -> float:
  """Of a bucket, on a logarithmic axis."""
  return ((row["from"] or smallest / 2) * row["to"]) ** 0.5


def _label_perplexity(axes: Axes) -> None:
  axes.set_yscale("log")
  axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
  axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
  axes.yaxis.set_minor_locator(NullLocator())
  axes.set_ylabel("perplexity")


def per_document(evaluations: Sequence[Evaluation], names: Sequence[str]) -> bytes:
  """Perplexity of every document: by name, or by length if there are many."""
  documents = list(dict.fromkeys(d["id"] for e in evaluations for d in e["documents"]))
  named = len(documents) <= _NAMED
  figure, [axes] = new_figure(1.8 + 0.25 * len(documents) if named else 4.0)
  for number, (evaluation, name) in enumerate(zip(evaluations, names, strict=True)):
    rows = [row for row in evaluation["documents"] if row["perplexity"] is not None]
    perplexity = [row["perplexity"] for row in rows]
    if named:
      places = [documents.index(row["id"]) for row in rows]
      axes.plot(perplexity, places, linestyle="none", label=plain(name), **style(number))
    else:
      lengths = [row["tokens"] for row in rows]
      axes.plot(
        lengths, perplexity, linestyle="none", label=plain(name), alpha=0.6, **style(number)
      )
  if named:
    axes.set_yticks(range(len(documents)), [plain(shortened(document)) for document in documents])
    axes.set_ylim(len(documents) - 0.5, -0.5)
    axes.set_xlabel("perplexity")
  else:
    axes.set_xscale("log")
    axes.set_xlabel("tokens of the document")
    axes.set_ylabel("perplexity")
  return png(figure)


def shortened(name: str) -> str:
  """A name that leaves room for the picture."""
  return name if len(name) <= 40 else f"{name[:18]}…{name[-20:]}"
