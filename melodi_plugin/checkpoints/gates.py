"""The gates and offsets of memory around a stock block, over the checkpoints of a training.

Gates that never leave their start show that the model has not learned to use its memory.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from melodi_plugin.config.parameter_names import MEMORY_PREFIX
from melodi_plugin.maxtext import weights
from melodi_plugin.output.tables import Table

_NAME = re.compile(rf"{MEMORY_PREFIX}(\d+)(?:_to_\d+)?/(gate|offset)$")


class Gates(NamedTuple):
  """Means over heads (and channels) of one checkpoint, by layer."""

  step: int
  offset: dict[int, float]  # added to the logits of short-term slots
  share: dict[int, float]  # of the queue in a head's output: sigmoid(-gate)


def read_gates(checkpoint: str) -> Gates:
  """Reads one checkpoint's `items` folder; raises ValueError if it has no gates and offsets."""
  names = [name for name in weights.stored_shapes(checkpoint) if _NAME.search(name)]
  if not names:
    raise ValueError(
      f"{checkpoint} holds no gates or offsets; give a checkpoint of a stock block with memory."
    )
  found: dict[str, dict[int, float]] = {"gate": {}, "offset": {}}
  for name, array in weights.read_arrays(checkpoint, names).items():
    match = _NAME.search(name)
    assert match
    first, kind = int(match[1]), match[2]
    if kind == "gate":
      array = 1 / (1 + np.exp(array))
    scanned = "_to_" in name
    layers = np.moveaxis(array, 1, 0) if scanned else array[None]  # MaxText's param_scan_axis
    found[kind] |= {first + i: float(layer.mean()) for i, layer in enumerate(layers)}
  step = int(digits[0]) if (digits := re.findall(r"(\d+)/items/?$", checkpoint)) else 0
  return Gates(step, found["offset"], found["gate"])


def draw(series: Sequence[Gates]) -> Figure:
  """Offsets and shares over steps, a line per layer."""
  figure = Figure(figsize=(9, 3.5), layout="constrained")
  FigureCanvasAgg(figure)
  steps = [gates.step for gates in series]
  panels: list[Any] = list(figure.subplots(1, 2))
  for panel, kind, title in zip(
    panels,
    ("offset", "share"),
    ("logit offset of short-term memory", "share of the long-term queue"),
    strict=True,
  ):
    layers = sorted(getattr(series[0], kind))
    for layer in layers:
      values = [getattr(gates, kind)[layer] for gates in series]
      shade = layer / max(1, len(layers) - 1) if len(layers) > 1 else 0.5
      panel.plot(steps, values, color=(0.1, 0.2 + 0.6 * min(shade, 1.0), 0.7), lw=1)
    panel.set_title(title + (" (dark: bottom layer)" if len(layers) > 1 else ""))
    panel.set_xlabel("step")
    panel.grid(alpha=0.3)
  return figure


def show(series: Sequence[Gates]) -> None:
  """Prints a line per checkpoint."""
  Table(
    "means over layers, heads and channels (lowest to highest layer)",
    ("step", "offset", "share of the queue"),
    [(str(gates.step), _range(gates.offset), _range(gates.share)) for gates in series],
  ).show()


def _range(values: dict[int, float]) -> str:
  if not values:
    return "-"
  numbers = np.array(list(values.values()))
  return f"{numbers.mean():.4f} ({numbers.min():.4f} to {numbers.max():.4f})"
