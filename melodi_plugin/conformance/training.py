"""What must hold of training runs, through MaxText's trainer: a few steps on documents.

`argv` is a config and `key=value`, as for `melodi train`: a tiny model, float32, documents of which
some do not end within the steps.  MaxText changes settings of JAX for its whole process.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from melodi_plugin.maxtext import launch

STEPS, STOP = 4, 2
_MEMORY = "nnx_aux/model/decoder/memory_"

Train = Callable[[Sequence[str]], Any]


def _train(argv: Sequence[str]) -> None:
  launch.train(["", *argv])


def assert_resumed_equals_uninterrupted(
  argv: Sequence[str], folder: pathlib.Path, train: Train = _train
) -> pathlib.Path:
  """A run that was stopped and resumed ends in the very state of the one that was not.

  Args:
    argv: see above.
    folder: for runs.
    train: trains with such words in this process.

  Returns:
    The checkpoint of the run that was not stopped.
  """
  for name, steps in (("through", STEPS), ("resumed", STOP), ("resumed", STEPS)):
    _run(argv, folder, name, steps, train)
  paths = [_last(folder, name) for name in ("through", "resumed")]
  through, resumed = map(checkpoint, paths)
  assert through.keys() == resumed.keys()
  for name, array in through.items():
    np.testing.assert_array_equal(resumed[name], array, err_msg=name)
  memory = {name: array for name, array in through.items() if name.startswith(_MEMORY)}
  assert memory, "no memory is stored"
  for name, array in memory.items():
    assert array.any(), f"{name} is empty after {STEPS} steps"
  return paths[0]


def assert_sharded_equals_alone(
  argv: Sequence[str], folder: pathlib.Path, mesh: Sequence[str], train: Train = _train
) -> None:
  """Losses and memory do not depend on how a model is spread over devices.

  Args:
    argv: see above.
    folder: for runs.
    mesh: keys such as ici_fsdp_parallelism=4 and ici_tensor_parallelism=2; compared with rows
      alone on their devices.
    train: trains with such words in this process.
  """
  alone = ("ici_fsdp_parallelism=1", "ici_tensor_parallelism=1", "ici_data_parallelism=-1")
  _run([*argv, *alone], folder, "alone", STOP, train)
  _run([*argv, *mesh], folder, "sharded", STOP, train)
  losses = [_losses(folder / f"{name}.jsonl") for name in ("sharded", "alone")]
  np.testing.assert_allclose(*losses, rtol=2e-5)
  sharded, expected = (checkpoint(_last(folder, name)) for name in ("sharded", "alone"))
  for name in (name for name in expected if name.startswith(_MEMORY)):
    np.testing.assert_allclose(sharded[name], expected[name], rtol=1e-3, atol=1e-4, err_msg=name)


def checkpoint(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of one checkpoint (.../checkpoints/<step>) by its path."""
  reader = ocp.PyTreeCheckpointer()
  metadata: Any = reader.metadata(folder / "items")
  tree = metadata.item_metadata.tree
  numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  leaves = jax.tree.leaves_with_path(reader.restore(folder / "items", restore_args=numpy))
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _run(argv: Sequence[str], folder: pathlib.Path, name: str, steps: int, train: Train) -> None:
  keys = {
    "base_output_directory": folder,
    "run_name": name,
    "steps": steps,
    "learning_rate_schedule_steps": STEPS,  # else it follows `steps`
    "enable_checkpointing": "true",
    "async_checkpointing": "false",
    "metrics_file": folder / f"{name}.jsonl",
  }
  train([*argv, *(f"{key}={value}" for key, value in keys.items())])


def _last(folder: pathlib.Path, name: str) -> pathlib.Path:
  """The last checkpoint of a run."""
  return max((folder / name / "checkpoints").iterdir(), key=lambda path: int(path.name))


def _losses(path: pathlib.Path) -> list[float]:
  lines = map(json.loads, path.read_text().splitlines())
  return [line["learning/loss"] for line in lines if "learning/loss" in line]
