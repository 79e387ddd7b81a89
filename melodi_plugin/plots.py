"""The two pictures of a report, as PNG, without pyplot's global state."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
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


def new_figure(height: float) -> tuple[Figure, Axes]:
  """An empty picture of our looks, and its axes."""
  figure = Figure(figsize=(7, height), layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.subplots()
  axes.grid(visible=True, color="0.9")
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def png(figure: Figure) -> bytes:
  """The picture with its legend, as the content of a file."""
  figure.legend(loc="outside upper left", frameon=False)
  file = io.BytesIO()
  figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
  return file.getvalue()


def colour(number: int) -> str:
  """Of the curve with this number."""
  return _COLOURS[number % len(_COLOURS)]


def style(number: int) -> dict[str, Any]:
  """Colour and marker of the curve with this number."""
  return {
    "color": colour(number),
    # After the last colour comes the first again, with another marker.
    "marker": _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
    "markersize": 5,
  }


def _short(name: str) -> str:
  return name if len(name) <= 40 else f"{name[:18]}…{name[-20:]}"
