"""The picture of a probe: recall against distance."""

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from melodi_plugin.evaluation.probes.result import distance_name
from melodi_plugin.output.figures import new_figure, plain, png, style

_FIRST_USE = -1


def against_distance(results: Sequence[dict[str, Any]], names: Sequence[str]) -> bytes:
  """One curve per result: right answers, or nats if the probe asks nothing but reads real text."""
  figure, [axes] = new_figure(4.0)
  first_use = "first_use" in results[0]
  in_nats = first_use or "gain" in results[0]["points"][0]
  places = _places(results)
  for number, (result, name) in enumerate(zip(results, names, strict=True)):
    looks = style(number)
    curve = [point for point in result["points"] if point["nats"] is not None or not in_nats]
    x = [places[point["from"], point["to"]] for point in curve]
    if in_nats:
      axes.plot(x, [point["nats"] for point in curve], label=plain(name), **looks)
      if first_use:
        axes.plot([_FIRST_USE], [result["first_use"]["nats"]], **looks)
    else:
      axes.plot(x, [point["accuracy"] for point in curve], label=plain(name), **looks)
      low, high = ([point[end] for point in curve] for end in ("low", "high"))
      axes.fill_between(x, low, high, color=looks["color"], alpha=0.15, linewidth=0)
  _label_distances(axes, places, first_use)
  if in_nats:
    axes.set_ylabel("nats")
  else:
    _label_recall(axes, results, places)
  return png(figure)


def _places(results: Sequence[dict[str, Any]]) -> dict[tuple[int, int], int]:
  """Where a distance stands: at its number, or one after the other if there are gaps."""
  keys = sorted({(point["from"], point["to"]) for result in results for point in result["points"]})
  return {key: place for place, key in enumerate(keys)}


def _label_distances(axes: Any, places: dict[tuple[int, int], int], first_use: bool) -> None:
  axes.set_xlabel("distance in windows")
  if all((place, place) == key for key, place in places.items()):
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 4, 10], integer=True))
    return
  names = [distance_name({"from": first, "to": last}) for first, last in places]
  ticks = list(places.values())
  if first_use:
    ticks, names = [_FIRST_USE, *ticks], ["first use", *names]
  axes.set_xticks(ticks, names, rotation=45, ha="right")


def _label_recall(
  axes: Any, results: Sequence[dict[str, Any]], places: dict[tuple[int, int], int]
) -> None:
  """The axis of right answers, chance, and how many windows the queues hold."""
  axes.set_ylabel("right answers")
  axes.set_ylim(0, 1.03)
  axes.yaxis.set_major_formatter(PercentFormatter(1))
  quiet = {"color": "0.4", "textcoords": "offset points", "fontsize": "small"}
  if chance := results[0].get("chance"):
    axes.axhline(chance, color="0.5", linewidth=1, linestyle=":")
    where = {"xycoords": ("axes fraction", "data"), "ha": "right"}
    axes.annotate("chance", (1, chance), (0, -11), **where, **quiet)
  for queue in sorted({result["queue"] for result in results} - {0}):
    held = sum(last <= queue for _, last in places)
    if 0 < held < len(places):
      axes.axvline(held - 0.5, color="0.5", linewidth=1, linestyle="--")
      where = {"xycoords": ("data", "axes fraction"), "ha": "left"}
      axes.annotate(f"queue: {queue} windows", (held - 0.5, 0.5), (4, 0), **where, **quiet)
