"""The model of a config, and the parameters of checkpoints in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import nnx
from maxtext.common import checkpointing
from maxtext.common.common_types import MODEL_MODE_TRAIN
from maxtext.configs import pyconfig
from maxtext.utils import maxtext_utils, maxtext_utils_nnx, model_creation_utils, sharding

from melodi_plugin.maxtext import weights
from melodi_plugin.restoring import reading_arrays


def mesh_of(config: Any) -> jax.sharding.Mesh:
  """The devices, as the config arranges them."""
  return maxtext_utils.get_mesh_from_config(config)


def batch_sharding(config: Any, mesh: jax.sharding.Mesh) -> Any:
  """Where the arrays of a batch lie."""
  return sharding.get_input_data_sharding(config, mesh)


class Loaded(NamedTuple):
  """A model, split as `nnx.split` does."""

  graphdef: Any
  params: Any
  memory: Any
  rest: Any  # keys of random numbers


def with_rows(config: Any, rows: int) -> Any:
  """The config with another number of rows, for a model that does not train."""
  keys = ("global_batch_size_to_train_on", "micro_batch_size_to_train_on")
  changed = dict.fromkeys(keys, rows) | {"per_device_batch_size": rows / jax.device_count()}
  return with_keys(config, **changed)


def with_keys(config: Any, **changed: Any) -> Any:
  """The config with other values of some keys; nothing is checked again."""
  return pyconfig.HyperParameters(config._pydantic_config.model_copy(update=changed))


def check(config: Any, path: str) -> Any:
  """The config that reads the checkpoint `path` into the model of `config`; allocates nothing.

  Raises:
    ValueError: if there is no checkpoint, or one of another model.
  """
  # With vocabulary tiling the model leaves the logits to MaxText's loss, and with distillation it
  # gives them to ours.
  changed = {"load_parameters_path": path, "num_vocab_tiling": 1, "melodi_distill_weight": 0.0}
  own = model_creation_utils.verify_and_sync_scan_layers(with_keys(config, **changed))
  weights.check_loads(own)
  return own


def load(config: Any, mesh: jax.sharding.Mesh, path: str) -> Loaded:
  """Loads the checkpoint `path` into the model of `config`.

  Raises:
    ValueError: if there is no checkpoint, or one of another model.
  """
  own = check(config, path)
  with reading_arrays(path):
    model = model_creation_utils.from_pretrained(own, mesh, model_mode=MODEL_MODE_TRAIN)
  return Loaded(*nnx.split(model, nnx.Param, nnx.BatchStat, ...))


def new_model(config: Any) -> tuple[nnx.Module, jax.sharding.Mesh]:
  """The model of a config with fresh parameters, as the trainer makes them, and its mesh."""
  mesh = maxtext_utils.get_mesh_from_config(config)
  rngs = maxtext_utils_nnx.create_nnx_rngs(config)
  return model_creation_utils.from_config(config, mesh=mesh, rngs=rngs), mesh


def fresh(config: Any) -> tuple[Loaded, jax.sharding.Mesh]:
  """A new model that reads a row per device, placed on its mesh, and that."""
  own = with_keys(with_rows(config, jax.device_count()), load_parameters_path="")
  mesh = mesh_of(own)
  model = model_creation_utils.from_pretrained(own, mesh, model_mode=MODEL_MODE_TRAIN)
  return Loaded(*nnx.split(model, nnx.Param, nnx.BatchStat, ...)), mesh


def read_params(config: Any, mesh: jax.sharding.Mesh, params: Any) -> Any:
  """The parameters of `load_parameters_path` that `params` names, placed as those are."""

  def place(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)

  with jax.set_mesh(mesh), reading_arrays(config.load_parameters_path):
    return checkpointing.load_params_from_path(
      config.load_parameters_path,
      jax.tree.map(place, params),
      config.checkpoint_storage_concurrent_gb,
    )


def write_params(config: Any, name: str, params: Any) -> str:
  """Writes <run>/<name>/items, which must not exist; returns that folder."""
  folder = epath.Path(config.base_output_directory) / config.run_name / name
  weights.check_can_be_saved(str(folder))
  if (folder / "items").exists():
    raise ValueError(f"{folder} exists already; choose another run_name, or remove it.")
  tree = {"params": nnx.to_pure_dict(params)}
  checkpointing.save_params_to_path(str(folder), tree)
  return str(folder / "items")


def save_params(folder: Path, params: Mapping[str, np.ndarray]) -> None:
  """Writes <folder>/items as MaxText reads it; `params` by path."""
  weights.check_can_be_saved(str(folder.resolve()))
  by_path = {tuple(path.split("/")): array for path, array in params.items()}
  tree = {"params": nnx.traversals.unflatten_mapping(by_path)}
  checkpointing.save_params_to_path(str(folder.resolve()), tree)
