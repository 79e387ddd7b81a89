"""What memory adds in a file of its own: written by `melodi graft`, read beside a base.

All of it: uv run pytest -m slow integration_tests/adapter_test.py
"""

import functools
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.cli.main import main
from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.maxtext import loading

pytestmark = pytest.mark.slow
KEYS = {"base_num_decoder_layers": 2, "melodi_long_term_layers": "0", "per_device_batch_size": 1}


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def save(folder: pathlib.Path, model: nnx.Module) -> str:
  """The items of a checkpoint of a model's parameters."""
  from maxtext.common import checkpointing

  checkpointing.save_params_to_path(
    str(folder), {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
  )
  return str(folder / "items")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A stock checkpoint, another one, one with memory around the first, and its adapter."""
  folder = tmp_path_factory.mktemp("adapter")
  with running.maxtext_process():
    stock = stock_model.build(stock_model.new_config("llama2", melodi=False, **KEYS))
    save(folder / "other", stock)
    stock_model.randomize(stock)
    save(folder / "stock", stock)
    grafted = stock_model.build(stock_model.new_config("llama2", **KEYS))
    stock_model.randomize(grafted, seed=1)
    stock_model.copy_stock(stock, grafted)
    save(folder / "grafted", grafted)
    assert main(words(folder, "grafted", "--adapter", str(folder / "own.safetensors"))) == 0
  return folder


def words(folder: pathlib.Path, checkpoint: str, *more: str, **keys) -> list[str]:
  """Of the command that grafts."""
  own = stock_model.keys("llama2", **KEYS | keys)
  file = running.write_yaml(folder / "own.yml", **own)
  path = folder / checkpoint / "items"
  return ["graft", str(file), f"load_parameters_path={path}", *more]


def config_of(folder: pathlib.Path, checkpoint: str, adapter: str = "", **keys):
  path = str(folder / checkpoint / "items")
  own = {"load_parameters_path": path, "melodi_adapter": adapter and str(folder / adapter)}
  return stock_model.new_config("llama2", **KEYS | own | keys)


@functools.cache
def expected(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The parameters of the checkpoint with memory."""
  found = running.checkpoint(folder / "grafted")
  return {name.removeprefix("params/params/"): leaf for name, leaf in found.items()}


def assert_same(folder: pathlib.Path, found) -> None:
  """Bit for bit."""
  assert found.keys() == expected(folder).keys()
  for name, leaf in found.items():
    np.testing.assert_array_equal(np.asarray(leaf), expected(folder)[name], err_msg=name)


def loaded(config):
  """The parameters that evaluation, decoding and serving read."""
  params = loading.load(config, loading.mesh_of(config), config.load_parameters_path).params
  return {name: leaf[...] for name, leaf in stock_model.by_path(params).items()}


def test_base_and_adapter_are_the_checkpoint_with_memory(folder):
  assert_same(folder, loaded(config_of(folder, "stock", "own.safetensors")))
  size = (folder / "own.safetensors").stat().st_size
  memory = sum(leaf.nbytes for n, leaf in expected(folder).items() if is_memory_parameter(n))
  assert memory < size < memory + 4096


def test_training_begins_with_base_and_adapter(folder, capsys):
  trainer = running.Trainer(config_of(folder, "stock", "own.safetensors"), jax.devices())
  assert_same(folder, trainer.params())
  assert "start anew" not in capsys.readouterr().err


def test_adapter_of_a_stock_checkpoint_is_memory_as_it_starts(folder, capsys):
  path = folder / "fresh.safetensors"
  assert main(words(folder, "stock", "--adapter", str(path))) == 0
  assert f"{path.stat().st_size:,} bytes written to {path}" in capsys.readouterr().out
  found = loaded(config_of(folder, "stock", "fresh.safetensors"))
  gates = [np.asarray(leaf) for name, leaf in found.items() if name.endswith("/gate")]
  assert gates and all((gate == 2).all() for gate in gates)


def test_rounded_adapter_is_half_as_large(folder):
  path = folder / "half.safetensors"
  assert main(words(folder, "grafted", "--adapter", str(path), "--bfloat16")) == 0
  memory = sum(leaf.nbytes for n, leaf in expected(folder).items() if is_memory_parameter(n))
  saved = (folder / "own.safetensors").stat().st_size - path.stat().st_size
  assert saved == pytest.approx(memory / 2, abs=64)  # names take the rest
  for name, leaf in loaded(config_of(folder, "stock", "half.safetensors")).items():
    np.testing.assert_allclose(leaf, expected(folder)[name], rtol=2**-8, err_msg=name)


WRONG = [
  ("other", "own.safetensors", {}, "was made for other weights than those of load_parameters_path"),
  ("stock", "nowhere", {}, "there is no such file."),
  ("stock", "own.yml", {}, "own.yml is not an adapter, or is damaged"),
  ("grafted", "own.safetensors", {}, "has memory already; leave melodi_adapter out."),
  (
    "stock",
    "own.safetensors",
    {"melodi_short_term_tokens": 3},
    "is not what memory adds in this configuration: decoder/memory_layers_0_to_0/short_mixer/",
  ),
]


@pytest.mark.parametrize(
  "checkpoint, adapter, keys, words", WRONG, ids=[words for *_, words in WRONG]
)
def test_what_does_not_fit_is_one_sentence(folder, checkpoint, adapter, keys, words):
  config = config_of(folder, checkpoint, adapter, **keys)
  with pytest.raises(ValueError) as error:
    loaded(config)
  assert words in str(error.value) and str(error.value).endswith(".")
  assert "\n" not in str(error.value)


def test_trainer_refuses_an_adapter_of_other_weights_in_the_same_words(folder):
  from melodi_plugin.errors import UserError

  with pytest.raises(UserError, match="was made for other weights than"):
    running.Trainer(config_of(folder, "other", "own.safetensors"), jax.devices())
