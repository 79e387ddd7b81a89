"""What the last lines of a training say."""

import argparse
import shlex
from types import SimpleNamespace

import pytest

from melodi_plugin.cli.train import decode_command


@pytest.fixture(name="command")
def _command(tmp_path):
  """The command for a run with these steps saved."""

  def make(*steps, keys=(), **changed):
    for step in steps:
      (tmp_path / "checkpoints" / str(step) / "items").mkdir(parents=True)
    own = {"enable_checkpointing": True, "decoder_block": "melodi"}
    config = SimpleNamespace(**(own | {"checkpoint_dir": f"{tmp_path}/checkpoints/"} | changed))
    return decode_command(config, argparse.Namespace(config="own.yml", keys=list(keys)))

  return make


def test_command_reads_the_last_checkpoint_with_the_keys_of_the_training(command, tmp_path):
  keys = ["steps=20", "melodi_stop=a b", "prompt=x", "load_parameters_path=first/items"]
  assert shlex.split(command(9, 19, 100, keys=keys)) == [
    *("uv", "run", "melodi", "decode", "own.yml", "steps=20", "melodi_stop=a b"),
    f"load_parameters_path={tmp_path}/checkpoints/100/items",
    "prompt=The",
  ]


def test_without_a_checkpoint_or_without_memory_there_is_none(command):
  assert command() is None
  assert command(9, enable_checkpointing=False) is None
  assert command(decoder_block="llama2") is None
