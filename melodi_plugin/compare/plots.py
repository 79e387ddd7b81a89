"""The pictures of a comparison, as PNG; those of a report are in `evaluation/plots`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from melodi_plugin.compare import pareto
from melodi_plugin.compare.results import Over, RowResult
from melodi_plugin.evaluation.plots import by_position, shortened
from melodi_plugin.output.figures import (
  colour,
  new_figure,
  over_steps,
  plain,
  png,
  show_differences,
  style,
)

_POINTS = 100  # of a loss curve; more steps are averaged


def pictures(rows: Sequence[RowResult]) -> dict[str, bytes]:
  """Contents of files by name; rows without a finite perplexity are only in that of the loss."""
  drawn = {"loss.png": loss(rows)}
  finite = [found for found in rows if found.perplexity]
  if not finite:
    return drawn
  evaluations, names = [found.evaluation for found in finite], [found.row.name for found in finite]
  if pareto.curves(finite):
    drawn["bytes.png"] = pareto.picture(finite)
  drawn |= {"memory.png": memory(rows), "position.png": by_position(evaluations, names)}
  if any(found.changed for found in finite):
    drawn["memory_after_training.png"] = memory(rows, after_training=True)
  return drawn


def loss(rows: Sequence[RowResult]) -> bytes:
  """Training loss against the step, and below it the difference to the first row.

  Lines are means over seeds; the range of the seeds is shaded.
  """
  figure, panels = new_figure(3.5 if len(rows) == 1 else 6.0, rows=min(len(rows), 2))
  base_steps, base = loss_curves(rows[0])
  late: list[float] = []
  for number, found in enumerate(rows):
    steps, curves = loss_curves(found)
    _shaded(panels[0], steps, curves, number, found.row.name)
    if len(rows) > 1:
      first = np.interp(steps, base_steps, base.mean(0))
      _shaded(panels[1], steps, curves - first, number, found.row.name)
      late += [*(curves - first)[:, len(steps) // 4 :].flat]
  panels[0].set_ylabel("training loss,\nnats per token")
  if len(rows) > 1:
    panels[1].set_ylabel(f"difference to\n{plain(shortened(rows[0].row.name))}")
    show_differences(panels[1], late)  # what the first steps do does not set the height
  over_steps(panels[-1])
  return png(figure)


def _shaded(axes: Axes, x: np.ndarray, curves: np.ndarray, number: int, name: str) -> None:
  axes.plot(x, curves.mean(0), color=colour(number), linewidth=1.2, label=plain(name))
  if len(curves) > 1:
    shade = {"color": colour(number), "alpha": 0.15, "linewidth": 0}
    axes.fill_between(x, curves.min(0), curves.max(0), **shade)


def loss_curves(found: RowResult) -> tuple[np.ndarray, np.ndarray]:
  """Steps [P], and losses [seeds, P]: means over equally many steps each, P at most _POINTS."""
  shortest = min(len(result["losses"]) for result in found.results)
  losses = np.array([result["losses"][:shortest] for result in found.results], np.float64)
  every = math.ceil(losses.shape[1] / _POINTS)
  whole = losses.shape[1] // every * every
  groups = losses[:, :whole].reshape(len(losses), -1, every, 2).mean(2)
  return groups[0, :, 0], groups[:, :, 1]


def memory(rows: Sequence[RowResult], *, after_training: bool = False) -> bytes:
  """Test perplexity against what a row of the batch carries along.

  Rows without memory are the line to stay below.  After training every row is a curve over the
  sizes it was read with; the one that it was trained with is large.
  """
  figure, [axes] = new_figure(4.0)
  for number, found in enumerate(rows):
    size, name, perplexity = found.row.sizes["memory_all"], found.row.name, found.perplexity
    if perplexity is None:
      continue
    if not size:
      _across(axes, perplexity, number, label=plain(f"{name} (no memory)"))
      continue
    if after_training:
      axes.scatter([size], [perplexity.mean], s=100, color=colour(number))
    points = memory_curve(found) if after_training else {size: perplexity}
    _points(axes, points, number, label=plain(name))
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter(EngFormatter())
  axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel("memory, numbers per row of the batch")
  axes.set_ylabel("test perplexity")
  return png(figure)


def memory_curve(found: RowResult) -> dict[int, Over]:
  """Perplexities of a row by memory size, also at the size that it was trained with."""
  read = [(changed.sizes, changed.perplexity) for changed in found.changed]
  read.append((found.row.sizes, found.perplexity))
  return dict(sorted({sizes["memory_all"]: over for sizes, over in read if over}.items()))


def _points(axes: Axes, points: Mapping[int, Over], number: int, label: str) -> None:
  """Means by memory size, with the range over seeds."""
  y, low, high = (
    np.array([getattr(over, part) for over in points.values()]) for part in ("mean", "low", "high")
  )
  looks = {"capsize": 3, "label": label, **style(number)}
  axes.errorbar(list(points), y, yerr=[y - low, high - y], **looks)


def _across(axes: Axes, perplexity: Over, number: int, label: str) -> None:
  """Draws a line right across, because a logarithmic axis has no place for 0."""
  axes.axhline(perplexity.mean, color=colour(number), linestyle="--", label=label)
  axes.axhspan(perplexity.low, perplexity.high, color=colour(number), alpha=0.1)
