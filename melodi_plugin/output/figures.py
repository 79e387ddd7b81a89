"""The looks of all pictures, as PNG, without pyplot's global state."""

import io
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_LEGEND = 95  # characters that a line of the legend holds


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
  """An empty picture of our looks, and its axes; those below each other share x."""
  figure = Figure(figsize=(7 if columns == 1 else 10, height), layout="constrained")
  FigureCanvasAgg(figure)
  axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, sharex="col").flat)
  for one in axes:
    one.grid(visible=True, color="0.9")
    one.set_axisbelow(True)
    one.spines[["top", "right"]].set_visible(False)
  return figure, axes


def png(figure: Figure) -> bytes:
  """The picture with its legend above it, as the content of a file."""
  handles, names = _labelled(figure.axes)
  if names:
    columns = max(1, min(len(names), _LEGEND // (max(map(len, names)) + 8)))
    figure.legend(handles, names, loc="outside upper left", frameon=False, ncols=columns)
  file = io.BytesIO()
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is drawn as a box
    figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
  return file.getvalue()


def _labelled(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
  """Curves with a name; of those with the same name, in several panels, the first."""
  found: dict[str, Any] = {}
  for one in axes:
    for handle, name in zip(*one.get_legend_handles_labels(), strict=True):
      found.setdefault(name, handle)
  return list(found.values()), list(found)


def plain(name: str) -> str:
  """A name that comes from a user, as matplotlib draws it as it is.

  It would read dollars as formulas, and leave out of the legend what begins with an underscore.
  """
  shown = "".join(char if char.isprintable() else " " for char in name).replace("$", r"\$")
  return f" {shown}" if shown.startswith("_") else shown


def colour(number: int) -> str:
  """The colour of the curve with this number."""
  return _COLOURS[number % len(_COLOURS)]


def style(number: int) -> dict[str, Any]:
  """The colour and marker of the curve with this number."""
  return {
    "color": colour(number),
    # After the last colour comes the first again, with another marker.
    "marker": _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)],
    "markersize": 5,
  }


def over_steps(axes: Axes) -> None:
  """The x axis of training steps, which are whole."""
  axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
  axes.set_xlabel("step")


def show_differences(axes: Axes, telling: Sequence[float]) -> None:
  """A y axis with 0 and all of `telling` in it; what is further off may lie outside."""
  low, high = min(0.0, *telling, 0.0), max(0.0, *telling, 0.0)
  if margin := 0.1 * (high - low):
    axes.set_ylim(low - margin, high + margin)


def in_full(axes: Axes, least: float) -> None:
  """The y axis with numbers as they are, and high enough not to enlarge rounding.

  Args:
    axes: with its curves drawn.
    least: height of what is shown.
  """
  axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
  low, high = axes.get_ylim()
  if high - low < least:
    middle = (low + high) / 2
    axes.set_ylim(middle - least / 2, middle + least / 2)
