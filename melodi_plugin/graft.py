"""`python -m melodi_plugin.graft config.yml load_parameters_path=<stock> [key=value ...]`.

Gives a stock model memory: reads a stock MaxText checkpoint, writes a complete MELODI checkpoint to
`<base_output_directory>/<run_name>/grafted/items`, and prints what came from where.  `--strip` goes
the other way, to `.../stripped/items`: the stock model's arrays, bit for bit.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath
from flax import nnx
from rich.console import Console

from melodi_plugin import weights
from melodi_plugin.config import is_memory_parameter
from melodi_plugin.launch import load_config, stop
from melodi_plugin.tables import Table


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
  model, mesh = _new_model(config)
  params = nnx.state(model, nnx.Param)
  here = weights.shapes_of(params)
  stock = {name: shape for name, shape in here.items() if not is_memory_parameter(name)}
  path = config.load_parameters_path
  _check(path, weights.stored_shapes(path), stock)
  nnx.update(params, _read(config, mesh, weights.without_memory(params)))
  initialised = {name: shape for name, shape in here.items() if name not in stock}
  return Grafted(_write(config, "grafted", params), stock, initialised, {})


def strip(config: Any) -> Grafted:
  """Writes the stock model that is inside the MELODI checkpoint of `config`.

  Raises:
    ValueError: if the checkpoint is not one of this configuration.
  """
  model, mesh = _new_model(config)
  params = nnx.state(model, nnx.Param)
  path, here = config.load_parameters_path, weights.shapes_of(params)
  stored = weights.stored_shapes(path)
  if not any(map(is_memory_parameter, stored)):
    raise ValueError(f"{path} holds no memory parameters, so there is nothing to strip.")
  _check(path, stored, here)
  stock = _read(config, mesh, weights.without_memory(params))
  left = {name: shape for name, shape in here.items() if is_memory_parameter(name)}
  return Grafted(_write(config, "stripped", stock), weights.shapes_of(stock), {}, left)


def _new_model(config: Any) -> tuple[nnx.Module, jax.sharding.Mesh]:
  from maxtext.utils import maxtext_utils, maxtext_utils_nnx, model_creation_utils

  mesh = maxtext_utils.get_mesh_from_config(config)
  rngs = maxtext_utils_nnx.create_nnx_rngs(config)  # as the trainer makes them
  return model_creation_utils.from_config(config, mesh=mesh, rngs=rngs), mesh


def _read(config: Any, mesh: jax.sharding.Mesh, params: Any) -> Any:
  from maxtext.common import checkpointing

  def place(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)

  with jax.set_mesh(mesh):
    return checkpointing.load_params_from_path(
      config.load_parameters_path,
      jax.tree.map(place, params),
      config.checkpoint_storage_concurrent_gb,
    )


def _write(config: Any, name: str, params: Any) -> str:
  from maxtext.common import checkpointing

  folder = epath.Path(config.base_output_directory) / config.run_name / name
  if (folder / "items").exists():
    raise ValueError(f"{folder} exists already; choose another run_name, or remove it.")
  tree = {"params": nnx.to_pure_dict(params)}
  checkpointing.save_params_to_path(str(folder), tree)
  return str(folder / "items")


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
      f"{path} is not a checkpoint of this configuration's model: {first} ({len(different)} arrays "
      "differ); use the sizes of the model that you graft."
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


def main(argv: Sequence[str]) -> None:
  """Command line of `graft`."""
  logging.set_verbosity(logging.WARNING)
  stripping = "--strip" in argv
  config = load_config([word for word in argv if word != "--strip"])
  if not config.load_parameters_path:
    stop("load_parameters_path is not set; add load_parameters_path=<checkpoint>/items.")
  from melodi_plugin.host import has_base_block

  if not has_base_block(config):
    stop(
      "melodi_base_block is not set, so there is nothing to put memory around; set it to the "
      "decoder_block of the stock model, such as llama2."
    )
  try:
    show(strip(config) if stripping else graft(config))
  except (ValueError, OSError) as error:
    stop(str(error))


if __name__ == "__main__":
  main(sys.argv)
