"""Quality against bytes of a row that decodes: a curve per system, and the front of all."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from melodi_plugin.compare.results import Over, RowResult
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.evaluation.plots import shortened
from melodi_plugin.output.figures import colour, new_figure, plain, png, style

# Where a name may stand: points right of its row's and above it, and how it is aligned there.
_SIDES = [
  (x, y, horizontal, vertical)
  for far in (3, 15, 27, 39)
  for x, y, horizontal, vertical in (
    (6, far, "left", "bottom"),
    (6, -far, "left", "top"),
    (-6, far, "right", "bottom"),
    (-6, -far, "right", "top"),
  )
]
_ROOM = 4  # pixels around points that no name covers


class Point(NamedTuple):
  """A row of the comparison."""

  name: str
  size: int  # bytes that an engine keeps of a row of it
  perplexity: Over


def curves(rows: Sequence[RowResult]) -> dict[str, list[Point]]:
  """Rows by system, each from few bytes to many.

  Rows whose size is not known, or whose perplexity is not finite, are left out.
  """
  found: dict[str, list[Point]] = {}
  for row in rows:
    size = row.row.sizes.get("slot_bytes")
    if size and row.perplexity:
      system = _system(row.row.settings)
      found.setdefault(system, []).append(Point(row.row.name, size, row.perplexity))
  return {system: sorted(points, key=lambda p: p.size) for system, points in found.items()}


def front(points: Sequence[Point]) -> list[Point]:
  """Those that no other equals in perplexity with as few bytes, from few bytes to many."""
  best: list[Point] = []
  for point in sorted(points, key=lambda p: (p.size, p.perplexity.mean)):
    if not best or point.perplexity.mean < best[-1].perplexity.mean:
      best.append(point)
  return best


def picture(rows: Sequence[RowResult]) -> bytes:
  """Mean and range over seeds; the grey steps are the best that so many bytes buy."""
  found = curves(rows)
  every = [point for points in found.values() for point in points]
  figure, [axes] = new_figure(5.0)
  axes.set_xscale("log")
  best = front(every)
  _front(axes, best, right=max(point.size for point in every))
  for number, (system, points) in enumerate(found.items()):
    means, low, high = (
      np.array([getattr(point.perplexity, part) for point in points])
      for part in ("mean", "low", "high")
    )
    sizes = [point.size for point in points]
    looks = {"capsize": 3, "label": plain(system), "linewidth": 1.2, **style(number)}
    axes.errorbar(sizes, means, yerr=[means - low, high - means], **looks)
  axes.margins(x=0.12, y=0.12)
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(EngFormatter(unit="B"))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel("bytes of a row that decodes, all that an engine keeps of it")
  axes.set_ylabel("test perplexity")
  _names(axes, found)
  return png(figure)


def _system(settings: Mapping[str, Any]) -> str:
  block, base = settings["decoder_block"], settings["melodi_base_block"]
  name = f"melodi around {base}" if base != PAPER else block
  return f"{name} with sinks" if settings["melodi_sink_tokens"] else name


def _front(axes: Axes, best: Sequence[Point], right: int) -> None:
  sizes, means = [p.size for p in best], [p.perplexity.mean for p in best]
  looks = {
    "color": "0.75",
    "linewidth": 5,
    "alpha": 0.6,
    "zorder": 0,
    "label": "the best for its bytes",
  }
  axes.step([*sizes, right], [*means, means[-1]], where="post", **looks)


def _names(axes: Axes, found: Mapping[str, Sequence[Point]]) -> None:
  """Names beside their points, each at the first of `_SIDES` where it covers no other"""
  figure = axes.get_figure(root=True)
  assert figure is not None
  figure.draw_without_rendering()  # to know where things are
  numbered = [(p, number) for number, points in enumerate(found.values()) for p in points]
  taken = [_extent(axes, point) for point, _ in numbered]
  for point, number in sorted(numbered, key=lambda p: -p[0].perplexity.mean):
    name = axes.annotate(
      plain(shortened(point.name)),
      (point.size, point.perplexity.mean),
      xytext=(0, 0),
      textcoords="offset points",
      color=colour(number),
      fontsize=8,
    )
    for x, y, horizontal, vertical in _SIDES:
      name.set(position=(x, y), ha=horizontal, va=vertical)
      if not name.get_window_extent().count_overlaps(taken):
        break
    taken.append(name.get_window_extent())


def _extent(axes: Axes, point: Point) -> Bbox:
  """Where a point and its error bar are, in pixels."""
  ends = [(point.size, end) for end in (point.perplexity.low, point.perplexity.high)]
  low, high = axes.transData.transform(ends)
  return Bbox([low - _ROOM, high + _ROOM])
