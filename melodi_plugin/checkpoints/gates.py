"""The gates and offsets of memory around a stock block, over the checkpoints of a training.

Gates that never leave their start show that the model has not learned to use its memory.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from melodi_plugin.config.parameter_names import MEMORY_PREFIX
from melodi_plugin.maxtext import weights
from melodi_plugin.output.figures import in_full, new_figure, over_steps, png
from melodi_plugin.output.tables import Table
from melodi_plugin.training.gate_moves import unmoved

# Of the two panels: title, and the least difference that is worth the whole height.
_TITLES = {
  "offset": ("logit offset of short-term memory", 1e-2),
  "share": ("share of the long-term queue", 1e-3),
}
_NAME = re.compile(rf"{MEMORY_PREFIX}(\d+)(?:_to_\d+)?/(gate|offset)$")


class Gates(NamedTuple):
  """Means over heads (and channels) of one checkpoint, by layer."""

  step: int
  offset: dict[int, float]  # added to the logits of short-term slots
  share: dict[int, float]  # of the queue in a head's output: sigmoid(-gate)
  gates: dict[str, np.ndarray]  # as they are stored, by path


def read_gates(checkpoint: str) -> Gates:
  """Reads one checkpoint's `items` folder; raises ValueError if it has no gates and offsets."""
  names = [name for name in weights.stored_shapes(checkpoint) if _NAME.search(name)]
  if not names:
    raise ValueError(
      f"{checkpoint} holds no gates or offsets; give a checkpoint of a stock block with memory."
    )
  found: dict[str, dict[int, float]] = {"gate": {}, "offset": {}}
  gates = {}
  for name, array in weights.read_arrays(checkpoint, names).items():
    match = _NAME.search(name)
    assert match
    first, kind = int(match[1]), match[2]
    if kind == "gate":
      gates[name] = array
      array = 1 / (1 + np.exp(array))
    scanned = "_to_" in name
    layers = np.moveaxis(array, 1, 0) if scanned else array[None]  # MaxText's param_scan_axis
    found[kind] |= {first + i: float(layer.mean()) for i, layer in enumerate(layers)}
  step = int(digits[0]) if (digits := re.findall(r"(\d+)/items/?$", checkpoint)) else 0
  return Gates(step, found["offset"], found["gate"], gates)


def run_folder(checkpoint: str) -> str:
  """<run> of <run>/checkpoints/<step>/items; of parameters that lie elsewhere the folder above."""
  parts = checkpoint.rstrip("/").removesuffix("/items").split("/")[:-1]
  return "/".join(parts[:-1] if parts[-1] == "checkpoints" else parts)


def draw(series: Sequence[Gates]) -> bytes:
  """Offsets and shares over steps, a line per layer, as PNG."""
  figure, panels = new_figure(3.5, columns=2)
  steps = [gates.step for gates in series]
  layers = sorted({layer for gates in series for layer in (*gates.offset, *gates.share)})
  shades = ScalarMappable(Normalize(layers[0], layers[-1]), "viridis")
  for axes, (kind, (title, least)) in zip(panels, _TITLES.items(), strict=True):
    for layer in sorted(getattr(series[0], kind)):
      values = [getattr(gates, kind)[layer] for gates in series]
      axes.plot(steps, values, color=shades.to_rgba(layer), linewidth=1.2, marker=".")
    axes.set_title(title)
    in_full(axes, least)
    over_steps(axes)
  if len(layers) > 1:
    figure.colorbar(shades, ax=panels, label="layer", ticks=MaxNLocator(integer=True))
  return png(figure)


def show(series: Sequence[Gates]) -> None:
  """Prints a line per checkpoint, and a warning if gates have hardly moved between them."""
  Table(
    "means over layers, heads and channels (lowest to highest layer)",
    ("step", "offset", "share of the queue"),
    [(str(gates.step), _range(gates.offset), _range(gates.share)) for gates in series],
  ).show()
  first, last = series[0], series[-1]
  if said := unmoved(first.gates, last.gates, last.step - first.step):
    print(f"warning: {said}", flush=True)


def _range(values: dict[int, float]) -> str:
  if not values:
    return "-"
  numbers = np.array(list(values.values()))
  return f"{numbers.mean():.4f} ({numbers.min():.4f} to {numbers.max():.4f})"
