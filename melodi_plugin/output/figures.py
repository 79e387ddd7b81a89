"""The looks of all pictures, as PNG, without pyplot's global state."""

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


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
