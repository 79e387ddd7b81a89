"""The two pictures of a report."""

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from melodi_plugin.output.figures import colour, new_figure, png, style

_NAMED = 40  # documents that get a line with their name each


def by_position(evaluations: Sequence[dict[str, Any]], names: Sequence[str]) -> bytes:
  """Perplexity against the position of the token in its document, in doubling buckets."""
  figure, axes = new_figure(4.0)
  smallest = min(row["to"] for e in evaluations for row in e["positions"])
  ticks = {smallest / 2: "0"}  # a logarithmic axis has no 0
  for number, (evaluation, name) in enumerate(zip(evaluations, names, strict=True)):
    rows = [row for row in evaluation["positions"] if row["perplexity"] is not None]
    edges = [(row["from"] or smallest / 2, row["to"]) for row in rows]
    ticks |= {end: f"{end:,}" for _, end in edges}
    middles = [(first * end) ** 0.5 for first, end in edges]
    perplexity = [row["perplexity"] for row in rows]
    axes.hlines(perplexity, [e[0] for e in edges], [e[1] for e in edges], color=colour(number))
    axes.plot(middles, perplexity, label=name, linewidth=1, **style(number))
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xticklabels([ticks[place] for place in sorted(ticks)], rotation=45, ha="right")
  axes.set_yscale("log")
  axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))
  axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
  axes.yaxis.set_minor_locator(NullLocator())
  axes.set_xlabel("position of the token in its document")
  axes.set_ylabel("perplexity")
  return png(figure)


def per_document(evaluations: Sequence[dict[str, Any]], names: Sequence[str]) -> bytes:
  """Perplexity of every document: by name, or by length if there are many."""
  documents = list(dict.fromkeys(d["id"] for e in evaluations for d in e["documents"]))
  named = len(documents) <= _NAMED
  figure, axes = new_figure(1.8 + 0.25 * len(documents) if named else 4.0)
  for number, (evaluation, name) in enumerate(zip(evaluations, names, strict=True)):
    rows = [row for row in evaluation["documents"] if row["perplexity"] is not None]
    perplexity = [row["perplexity"] for row in rows]
    if named:
      places = [documents.index(row["id"]) for row in rows]
      axes.plot(perplexity, places, linestyle="none", label=name, **style(number))
    else:
      lengths = [row["tokens"] for row in rows]
      axes.plot(lengths, perplexity, linestyle="none", label=name, alpha=0.6, **style(number))
  if named:
    axes.set_yticks(range(len(documents)), [_short(document) for document in documents])
    axes.set_ylim(len(documents) - 0.5, -0.5)
    axes.set_xlabel("perplexity")
  else:
    axes.set_xscale("log")
    axes.set_xlabel("tokens of the document")
    axes.set_ylabel("perplexity")
  return png(figure)


def _short(name: str) -> str:
  return name if len(name) <= 40 else f"{name[:18]}…{name[-20:]}"
