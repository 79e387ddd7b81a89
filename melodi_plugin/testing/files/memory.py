"""A row with memory of every type, and the memory file that it is saved in."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from melodi_plugin.checkpoints.memory_file import Identity, SavedRow, save
from melodi_plugin.config.layers import LayerSpec, Run
from melodi_plugin.core.cell import KeyValues, OpenWindow, Recall
from melodi_plugin.core.decoding import OpenRows
from melodi_plugin.core.memory import LayerMemory

_BF16 = ml_dtypes.bfloat16
_SPECIAL = np.array([-0.0, np.nan, -np.nan, np.inf, 1e-45, -1e-45], np.float32)
HERE = Identity("aa11", "bb22", {"window_length": 8, "layers": (1, 2), "offset": -np.inf})
RUNS = (Run(LayerSpec(), 0, 1), Run(LayerSpec(), 1, 2), Run(LayerSpec(), 3, 1))


def _layer(number: int, rng: np.random.Generator) -> tuple[LayerMemory, Recall, OpenWindow]:
  """One row of one layer: layers 1 and 2 have a user's long-term memory, a tree of any types."""

  def draw(*shape, dtype=np.float32):
    return rng.normal(size=(1, *shape)).astype(dtype)

  def heads(tokens, seen):
    visible = (np.arange(tokens) >= tokens - seen)[None]
    key = draw(tokens, 2, 3, dtype=_BF16)
    key[~visible] = 0
    return KeyValues(key, -key, visible)

  long = draw(0, 6)
  if number in (1, 2):
    queue = draw(9, 6)
    queue[:, :5] = 0
    queue[:, 6] = _SPECIAL * (1 if number == 1 else -1)
    seen = rng.integers(-3, 3, size=(1, 4)).astype(np.int32)
    long = {"queue": queue, "more": [seen, np.array([number], np.int32), draw(0, 2), draw(3, 0)]}
  opened = OpenWindow(heads(5, 2), draw(2, 6), draw(1 if number else 0, 6))
  return LayerMemory(draw(2, 6), long), Recall(heads(2, 2), heads(9, 4) if number else ()), opened


def rows_of(runs: Sequence[Run] = RUNS, seed: int = 0) -> OpenRows:
  """One row of four layers, stacked as `runs` are scanned."""
  rng = np.random.default_rng(seed)
  layers = [_layer(number, rng) for number in range(4)]

  def stacked(part):
    own = ([one[part] for one in layers[run.first : run.first + run.length]] for run in runs)
    return [jax.tree.map(lambda *leaves: np.stack(leaves), *group) for group in own]

  held, count = (np.array([number], np.int32) for number in (3, 2))
  return OpenRows(stacked(0), stacked(1), stacked(2), held, count)


SAVED = SavedRow(rows_of(), 26, (17, 4), "cafe", "Hamlet, »1603«", "2026-11-25T12:00:00+00:00")


def save_in(folder: pathlib.Path) -> str:
  """Saves `SAVED` in a folder; the path of its file."""
  path = str(folder / "hamlet.memory")
  save(path, SAVED, HERE, RUNS)
  return path


def bits(tree: Any) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
  """Every leaf with its path, type and shape, as bytes."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  found = ((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in flat)
  return {name: (leaf.dtype.name, leaf.shape, leaf.tobytes()) for name, leaf in found}
