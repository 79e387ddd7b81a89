"""A stock checkpoint and memory become a complete MELODI checkpoint; and back, bit for bit.

Both go to a folder of the run: `grafted/items`, `stripped/items`.
"""

from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from rich.console import Console

from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.maxtext import weights
from melodi_plugin.maxtext.loading import new_model, read_params, write_params
from melodi_plugin.output.tables import Table
from melodi_plugin.systems.stock import adapter
from melodi_plugin.training.parameter_paths import name_of


class Grafted(NamedTuple):
  """Where every array of the written checkpoint came from, by name, with its shape."""

  folder: str
  copied: dict[str, tuple[int, ...]]
  initialised: dict[str, tuple[int, ...]]
  left_over: dict[str, tuple[int, ...]]


def graft(config: Any) -> Grafted:
  """Writes the MELODI model of `config` with the weights of a stock checkpoint.

  Raises:
    ValueError: if the checkpoint is not that of the stock model of this configuration.
  """
  here = weights.described_shapes(config)
  stock = {name: shape for name, shape in here.items() if not is_memory_parameter(name)}
  path = config.load_parameters_path
  _check(path, weights.stored_shapes(path), stock)
  model, mesh = new_model(config)
  params = nnx.state(model, nnx.Param)
  nnx.update(params, read_params(config, mesh, weights.without_memory(params)))
  initialised = {name: shape for name, shape in here.items() if name not in stock}
  return Grafted(write_params(config, "grafted", params), stock, initialised, {})


def strip(config: Any) -> Grafted:
  """Writes the stock model that is inside the MELODI checkpoint of `config`.

  Raises:
    ValueError: if the checkpoint is not one of this configuration.
  """
  path, here = config.load_parameters_path, weights.described_shapes(config)
  stored = weights.stored_shapes(path)
  if not any(map(is_memory_parameter, stored)):
    raise ValueError(f"{path} holds no memory parameters, so there is nothing to strip.")
  _check(path, stored, here)
  model, mesh = new_model(config)
  params = nnx.state(model, nnx.Param)
  stock = read_params(config, mesh, weights.without_memory(params))
  left = {name: shape for name, shape in here.items() if is_memory_parameter(name)}
  return Grafted(write_params(config, "stripped", stock), weights.shapes_of(stock), {}, left)


def write_adapter(config: Any, path: str, *, rounded: bool) -> int:
  """Writes what memory adds, alone: that of a checkpoint with memory, or as it starts.

  Args:
    config: whose `load_parameters_path` is a checkpoint with memory, or of the stock model.
    path: of the file.
    rounded: to bfloat16.

  Returns:
    How many bytes the file has.

  Raises:
    ValueError: if the checkpoint is not one of this configuration.
  """
  checkpoint, here = config.load_parameters_path, weights.described_shapes(config)
  there, wanted = weights.stored_shapes(checkpoint), here
  if not any(map(is_memory_parameter, there)):
    wanted = {name: shape for name, shape in here.items() if not is_memory_parameter(name)}
  _check(checkpoint, there, wanted)
  model, mesh = new_model(config)
  params = nnx.state(model, nnx.Param)
  nnx.update(
    params,
    read_params(config, mesh, params.filter(lambda place, _: name_of(place) in wanted)),
  )
  added = params.filter(lambda place, _: is_memory_parameter(name_of(place)))
  arrays = {name_of(place): np.asarray(leaf[...]) for place, leaf in nnx.to_flat_state(added)}
  return adapter.write(path, weights.digest_of(params), arrays, rounded=rounded)


def _check(path: str, there: dict[str, Any], here: dict[str, Any]) -> None:
  """Every array of the checkpoint must have its place, and every place its array."""
  if any(map(is_memory_parameter, there)) and not any(map(is_memory_parameter, here)):
    raise ValueError(f"{path} has memory already; give the checkpoint of a stock model.")
  scanned = [any("decoder/layers/" in name for name in names) for names in (there, here)]
  if scanned[0] != scanned[1]:
    has, needs = ("scanned" if flag else "unscanned" for flag in scanned)
    raise ValueError(
      f"{path} holds {has} layers and the configuration asks for {needs} ones; set "
      f"scan_layers={str(scanned[0]).lower()}."
    )
  different, first = weights.mismatch(there, here)
  if different:
    raise ValueError(
      f"{path} is not a checkpoint of this configuration's model: {first}; use the "
      "sizes of the model that you graft."
    )


def show(done: Grafted) -> None:
  """Prints what came from where."""
  rows = []
  for label, shapes in (
    ("copied", done.copied),
    ("initialised for memory", done.initialised),
    ("left over", done.left_over),
  ):
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    rows.append((label, f"{len(shapes):,}", f"{numbers:,}"))
  Table("parameters", ("from", "arrays", "numbers"), rows).show()
  console = Console()
  for label, shapes in (("initialised", done.initialised), ("left over", done.left_over)):
    for name, shape in sorted(shapes.items()):
      console.print(f"{label}: {name} {shape}", highlight=False)
  print(f"written to {done.folder}", flush=True)
