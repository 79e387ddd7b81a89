"""Runs that read documents and save themselves, and what they leave."""

import pathlib
from typing import Any

import numpy as np

from integration_tests import running

LENGTHS = [90, 300, 20, 150, 64, 400, 33, 220, 128, 75, 260, 180]
STEPS = 6  # of a whole run
KEYS = {
  "enable_checkpointing": True,
  "checkpoint_period": 100,
  "learning_rate_schedule_steps": STEPS,  # else it follows `steps`
  "dropout_rate": 0.1,
}
# Both memories in every layer of `running.TINY`: one kind of layers, not two, to compile.
EQUAL_LAYERS = {"melodi_long_term_layers": "0,1,2"}
SAVED = ("params/", "opt_state/", "nnx_aux/model/decoder/memory_", "nnx_aux/", "step")


def write_config(folder: pathlib.Path, **keys: Any) -> pathlib.Path:
  """A YAML in `folder` that reads documents of `folder` and writes to folder/out."""
  data = running.documents_config(folder, keys.pop("lengths", LENGTHS))
  everything = running.TINY | running.MELODI | KEYS | data | keys
  output = {"base_output_directory": str(folder / "out")}
  return running.write_yaml(folder / "config.yml", **(everything | output))


def checkpoints(folder: pathlib.Path, run_name: str) -> pathlib.Path:
  """The folder of one run's checkpoints."""
  return folder / "out" / run_name / "checkpoints"


def assert_same_checkpoint(one: pathlib.Path, other: pathlib.Path) -> None:
  """Bit-identical arrays, and the same place in the documents."""
  ours, theirs = running.checkpoint(one), running.checkpoint(other)
  assert ours.keys() == theirs.keys()
  for group in SAVED:
    assert any(name.startswith(group) for name in ours), group
  for name, array in ours.items():
    assert array.dtype == theirs[name].dtype
    np.testing.assert_array_equal(array, theirs[name], err_msg=name)
  assert running.iterator_state(one) == running.iterator_state(other)
