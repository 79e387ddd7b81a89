"""Parameters of a stock model and those that memory adds, told apart; checkpoints of both."""

import glob
import os
import re
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
from etils import epath
from flax import nnx

from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.core import digests
from melodi_plugin.restoring import ending_reads, reading_arrays
from melodi_plugin.systems.stock import adapter
from melodi_plugin.systems.stock.adapter import Adapter
from melodi_plugin.training.parameter_paths import name_of

# In the names of folders of checkpoints that are being written, also after a kill; and of those
# that were set aside, because they are damaged.
_NOT_WHOLE = re.compile(r"\.orbax-checkpoint-tmp|/\d+(\.broken)+(/|$)")
_COMMITTED = "commit_success.txt"


def check_can_be_saved(folder: str) -> None:
  """Raises ValueError if Orbax would write checkpoints into `folder` that nobody can read.

  It joins the arrays that processes have written after it has looked for them with a glob.
  """
  if glob.has_magic(folder):
    raise ValueError(
      f"checkpoints in {folder} could not be read again, because that has '[', '*' or '?' in it; "
      "choose another base_output_directory or run_name."
    )


def has_memory(state: Any) -> bool:
  """Whether a model's parameters are those of a stock block with memory."""
  return isinstance(state, nnx.State) and any(
    is_memory_parameter(name_of(path)) for path, _ in nnx.to_flat_state(state)
  )


def without_memory(state: Any) -> Any:
  """The stock model's part of a model's parameters."""
  return state.filter(lambda path, _: not is_memory_parameter(name_of(path)))


def shapes_of(params: Any) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the parameters in an `nnx.State`."""
  return {name_of(path): tuple(variable.shape) for path, variable in nnx.to_flat_state(params)}


def described_shapes(config: Any) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the parameters of a MaxText config's model; nothing is allocated."""
  # After registration.
  from maxtext.utils import maxtext_utils, model_creation_utils

  mesh = maxtext_utils.get_mesh_from_config(config)
  _, model = model_creation_utils.create_nnx_abstract_model(config, mesh)
  return shapes_of(nnx.state(model, nnx.Param))


def mismatch(
  there: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]], *, holder: str = "checkpoint"
) -> tuple[list[str], str]:
  """Names that a checkpoint, or another file, and a model do not share in this shape, and words on
  the first.
  """
  names = sorted(name for name in there | here if there.get(name) != here.get(name))
  if not names:
    return names, ""
  in_file, in_model = (shapes.get(names[0], "missing") for shapes in (there, here))
  first = f"{names[0]} is {in_file} in the {holder} and {in_model} in the model"
  return names, first + (f" ({len(names)} arrays differ)" if len(names) > 1 else "")


def check_fits(path: str, here: dict[str, tuple[int, ...]]) -> None:
  """Compares what a checkpoint holds with a model's shapes, before any of it is read.

  MaxText allocates the model first, and repeats, transposes and leaves out arrays until they fit.

  Raises:
    ValueError: if there is no checkpoint, or one of another model.
  """
  there = stored_shapes(path)
  different, first = mismatch(there, here)
  if not different:
    return
  if all(map(is_memory_parameter, different)) and not any(map(is_memory_parameter, there)):
    raise ValueError(
      f"{path} holds a stock model and the configuration adds memory to it; give it memory first: "
      f"melodi graft <this configuration> load_parameters_path={path}."
    )
  raise ValueError(
    f"{path} holds another model than the configuration describes: {first}; use the configuration "
    "that it was trained with."
  )


def check_loads(config: Any) -> None:
  """Compares the checkpoint and the adapter that a config names with its model, see `check_fits`.

  Raises:
    ValueError: if one is missing, or belongs to another model.
  """
  path, here = config.load_parameters_path, described_shapes(config)
  if config.melodi_adapter:
    memory = {name: shape for name, shape in here.items() if is_memory_parameter(name)}
    _check_adapter(config.melodi_adapter, adapter.read(config.melodi_adapter), memory)
    if not is_stock(path):
      raise ValueError(f"{path} has memory already; leave melodi_adapter out.")
    here = {name: shape for name, shape in here.items() if name not in memory}
  check_fits(path, here)


def adapter_arrays(path: str, params: Any) -> dict[str, np.ndarray]:
  """What an adapter adds to a model with these parameters, of which the stock ones count.

  Raises:
    ValueError: if the file is no adapter, or one for other weights.
  """
  found = adapter.read(path)
  if found.base != digest_of(params):
    raise ValueError(
      f"{path} was made for other weights than those of load_parameters_path; give the stock "
      "checkpoint that it was trained around, with the weight_dtype and scan_layers of then."
    )
  return found.arrays


def digest_of(params: Any) -> str:
  """The digest of the stock model's parameters."""
  flat = nnx.to_flat_state(without_memory(params))
  return digests.of_arrays({name_of(path): variable[...] for path, variable in flat})


def _check_adapter(path: str, found: Adapter, memory: dict[str, tuple[int, ...]]) -> None:
  there = {name: leaf.shape for name, leaf in found.arrays.items()}
  _, first = mismatch(there, memory, holder="file")
  if first:
    raise ValueError(
      f"{path} is not what memory adds in this configuration: {first}; use the configuration that "
      "it was trained with."
    )


def stored_shapes(path: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the parameters in a checkpoint: .../checkpoints/<step>, or its items.

  Raises:
    ValueError: if there is no checkpoint of MaxText's parameters.
  """
  items = epath.Path(path) / "items"
  try:
    stored = _listed(str(items) if items.exists() else path).tree["params"]
  except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
    raise ValueError(
      f"{path} is not a checkpoint of MaxText's parameters, or was not written to its end; give "
      "<run>/checkpoints/<step>/items."
    ) from error
  stored = stored.get("params", stored)
  leaves = nnx.traversals.flatten_mapping(stored)
  return {name_of(path): tuple(leaf.shape) for path, leaf in leaves.items()}


def read_arrays(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Some parameters of a checkpoint, without the rest of it; `names` are of `stored_shapes`."""
  import orbax.checkpoint as ocp  # slow, and not needed to tell parameters apart

  wanted = {tuple(name.split("/")): ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
  args = nnx.traversals.unflatten_mapping(wanted)
  with reading_arrays(path):
    nested = "params" in _listed(path).tree["params"]
    args = {"params": {"params": args} if nested else args}
    handler = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    restore = ocp.args.PyTreeRestore(item=args, restore_args=args, partial_restore=True)
    found = handler.restore(path, args=restore)["params"]
  flat = nnx.traversals.flatten_mapping(found["params"] if nested else found)
  return {name_of(path): np.asarray(leaf) for path, leaf in flat.items()}


def is_stock(path: str) -> bool:
  """Whether a checkpoint holds none of memory's parameters."""
  return not any(map(is_memory_parameter, stored_shapes(path)))


def stored_names(path: str) -> set[str]:
  """Names of all arrays in a checkpoint's folder of arrays, as they are on the disk.

  Raises:
    ValueError: if the list of them is damaged.
  """
  import jax  # slow, and not needed to tell parameters apart

  if (listed := _listed(path)) is None:
    raise ValueError(f"{path} has no list of arrays, or a damaged one.")
  leaves = jax.tree.leaves_with_path(listed.tree)
  return {jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves}


def _listed(path: str) -> Any:
  """Orbax's list of the arrays in a folder of them; None if there is none."""
  import orbax.checkpoint as ocp  # slow, and not needed to tell parameters apart

  with ending_reads():
    metadata: Any = ocp.PyTreeCheckpointer().metadata(path)
  return metadata.item_metadata


def find_checkpoints(paths: str) -> list[str]:
  """The checkpoints that `load_parameters_path` names, steps in ascending order.

  Args:
    paths: folders of parameters (.../items), or globs of them, joined with ','.  What is there by
      its own name is taken, whatever letters that has.

  Raises:
    ValueError: if a part of it names nothing.
  """
  files, name = fsspec.core.url_to_fs(paths)
  parts = [paths] if files.exists(name) else [part.strip() for part in paths.split(",")]
  return [name for part in parts for name in _matching(part)]


def run_checkpoints(folder: str) -> list[str]:
  """The checkpoints of a run, steps in ascending order; `folder` is <run>/checkpoints.

  Raises:
    ValueError: if there are none.
  """
  return _matching(f"{glob.escape(folder.rstrip('/'))}/*/items")


def reading(checkpoint: str) -> tuple[str, str]:
  """Arguments that read what was trained, in the place of what training began with."""
  return f"load_parameters_path={checkpoint}", "melodi_adapter="


def _matching(pattern: str) -> list[str]:
  files, path = fsspec.core.url_to_fs(pattern)
  there = [path] if files.exists(path) else [str(name) for name in files.glob(path)]
  names = [name for name in there if not _NOT_WHOLE.search(name)]
  if pattern.startswith("gs://"):
    names = [name for name in names if name == path or _is_committed(files, name)]
  if not names:
    if there:
      raise ValueError(
        f"no checkpoint that matches {pattern} was completed; give the path of one that is whole."
      )
    raise ValueError(f"there is no checkpoint {pattern}; give <run>/checkpoints/<step>/items.")
  found = []
  for name in sorted(names, key=_by_number):
    name = f"{name}/items" if files.isdir(f"{name}/items") else name
    found.append(files.unstrip_protocol(name) if "://" in pattern else os.path.abspath(name))
  return found


def _is_committed(files: Any, name: str) -> bool:
  """Whether what a bucket holds is whole: Orbax cannot rename it there, and writes a file last.

  The file is in the folder that was saved as one: the step, or its parameters alone.
  """
  step = name.removesuffix("/items")
  if not os.path.basename(step).isdecimal():
    return True
  return any(files.exists(f"{folder}/{_COMMITTED}") for folder in (step, f"{step}/items"))


def find_checkpoint(paths: str) -> str:
  """The one checkpoint that `load_parameters_path` names; ValueError for none or several."""
  path, *more = find_checkpoints(paths)
  if more:
    raise ValueError(f"load_parameters_path names {1 + len(more)} checkpoints; name one.")
  return path


def _by_number(name: str) -> list[tuple[int, str]]:
  """Sorts step 200 before step 1000."""
  return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
