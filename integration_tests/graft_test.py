"""Stock weights in a model with memory: `melodi graft`, and back with `--strip`."""

import functools
import pathlib

import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.checkpoints import graft
from melodi_plugin.cli.main import main
from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.maxtext import weights
from melodi_plugin.testing.cases import broad_but

EIGHT = {"per_device_batch_size": 1}  # the command uses all devices
CASES = {
  "llama2": ("llama2", {}),
  "llama2, unscanned": ("llama2", {"scan_layers": False}),
  "qwen3_moe": ("qwen3_moe", {}),
  "gemma2": ("gemma2", {}),
  "llama2, cache": ("llama2", {"melodi_cache_tokens": 24, "melodi_sink_tokens": 4}),
}
each_case = pytest.mark.parametrize("case", broad_but(["llama2"], CASES, slow=["llama2, cache"]))


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("graft")


@pytest.fixture(scope="module")
def stock(folder):
  """(case) -> the items of a stock checkpoint with random weights, and its arrays by name."""

  @functools.cache
  def saved(case: str):
    block, more = CASES[case]
    more = {key: value for key, value in more.items() if not key.startswith("melodi_")}
    with running.maxtext_process():
      from maxtext.common import checkpointing

      model = stock_model.build(stock_model.new_config(block, melodi=False, **more))
      stock_model.randomize(model)
      path = folder / "stock" / case.replace(", ", "_")
      tree = {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
      checkpointing.save_params_to_path(str(path), tree)
      arrays = {name: np.asarray(leaf[...]) for name, leaf in stock_model.params_of(model).items()}
    return path / "items", arrays

  return saved


def config_of(folder, case: str, path, run_name: str, **keys):
  """The config of a model with memory that reads the checkpoint at `path`."""
  block, more = CASES[case]
  output = {"base_output_directory": str(folder), "run_name": run_name} | EIGHT
  return stock_model.new_config(block, **(more | output | keys), load_parameters_path=str(path))


def arrays_of(items) -> dict[str, np.ndarray]:
  """The parameters of a checkpoint by name."""
  found = running.checkpoint(pathlib.Path(items).parent)
  return {name.removeprefix("params/params/"): leaf for name, leaf in found.items()}


@pytest.fixture(scope="module")
def grafted(folder, stock):
  """(case) -> what `graft` returned, having grafted the stock checkpoint of that case."""

  @functools.cache
  def done(case: str):
    with running.maxtext_process():
      run_name = "of_" + case.replace(", ", "_")
      return graft.graft(config_of(folder, case, stock(case)[0], run_name))

  return done


# -- Graft and strip -------------------------------------------------------------------------------


@each_case
def test_graft_writes_a_complete_checkpoint_with_the_stock_weights(folder, stock, grafted, case):
  items, expected = stock(case)
  done = grafted(case)
  model = stock_model.build(config_of(folder, case, items, "model"))
  own = {name: tuple(leaf.shape) for name, leaf in stock_model.params_of(model).items()}
  assert weights.stored_shapes(done.folder) == own
  assert done.copied == {name: leaf.shape for name, leaf in expected.items()}
  assert done.initialised == {k: shape for k, shape in own.items() if is_memory_parameter(k)}
  assert done.initialised and not done.left_over
  found = arrays_of(done.folder)
  for name, leaf in expected.items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    assert found[name].dtype == leaf.dtype


@each_case
def test_strip_gives_the_stock_arrays_bit_for_bit(folder, stock, grafted, case):
  items, expected = stock(case)
  path = grafted(case).folder
  done = graft.strip(config_of(folder, case, path, "of_" + case.replace(", ", "_")))
  found = arrays_of(done.folder)
  assert found.keys() == expected.keys() == done.copied.keys()
  for name, leaf in expected.items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)
  assert done.left_over == grafted(case).initialised
  assert weights.is_stock(done.folder) and not weights.is_stock(path)
  assert weights.stored_shapes(done.folder) == weights.stored_shapes(str(items))


def command(folder, case: str, path, run_name: str, *words: str, **keys) -> list[str]:
  """The words of `melodi graft`."""
  block, more = CASES[case]
  own = {"base_output_directory": str(folder), "run_name": run_name} | EIGHT
  own |= {"dataset_type": "grain"}  # as to train it with documents, which grafting does not need
  everything = stock_model.keys(block, **(more | own | keys)) | {"load_parameters_path": str(path)}
  file = running.write_yaml(folder / f"{run_name}.yml", **everything)
  return ["graft", str(file), *words]


def test_command_prints_what_came_from_where(folder, stock, capsys):
  items, expected = stock("llama2")
  assert main(command(folder, "llama2", items, "printed")) == 0
  out = capsys.readouterr().out
  numbers = sum(leaf.size for leaf in expected.values())
  row = next(line for line in out.splitlines() if "copied" in line)
  assert str(len(expected)) in row and f"{numbers:,}" in row
  initialised = [line for line in out.splitlines() if line.startswith("initialised: ")]
  assert initialised and all("decoder/" in line for line in initialised)
  assert f"written to {folder}/printed/grafted/items" in out
  argv = command(folder, "llama2", f"{folder}/printed/grafted/items", "printed", "--strip")
  assert main(argv) == 0
  out = capsys.readouterr().out
  assert f"written to {folder}/printed/stripped/items" in out and "left over: decoder/" in out
  found = arrays_of(folder / "printed/stripped/items")
  assert all((found[name] == leaf).all() for name, leaf in expected.items())


def error_of(capsys, argv: list[str]) -> str:
  """The one sentence with which the command ends, having failed."""
  assert main(argv) == 2
  line = capsys.readouterr().err.strip().splitlines()[-1]
  assert line.startswith("error: ") and line.endswith(".")
  return line.removeprefix("error: ")


def test_checkpoint_of_other_sizes_is_refused_before_memory_is_allocated(
  folder, stock, capsys, monkeypatch
):
  items, _ = stock("llama2")
  monkeypatch.setattr(graft, "new_model", None)
  message = error_of(capsys, command(folder, "llama2", items, "wide", base_mlp_dim=128))
  assert f"{items} is not a checkpoint of this configuration's model: " in message
  assert (
    "decoder/layers/mlp/wi_0/kernel is (32, 3, 64) in the checkpoint and (32, 3, 128)" in message
  )
  assert "(3 arrays differ)" in message
  assert not (folder / "wide" / "grafted").exists()


def test_checkpoint_that_has_memory_already_is_refused(folder, grafted, capsys):
  path = grafted("llama2").folder
  message = error_of(capsys, command(folder, "llama2", path, "twice"))
  assert message == f"{path} has memory already; give the checkpoint of a stock model."


@pytest.mark.parametrize(
  "case, scan, words",
  [
    ("llama2", False, "holds scanned layers and the configuration asks for unscanned ones; set "),
    ("llama2, unscanned", True, "holds unscanned layers and the configuration asks for scanned "),
  ],
  ids=["scanned", "unscanned"],
)
def test_checkpoint_of_the_other_layout_is_refused_with_the_key(
  folder, stock, capsys, case, scan, words
):
  items, _ = stock(case)
  argv = command(folder, case, items, f"layout_{scan}", scan_layers=scan)
  message = error_of(capsys, argv)
  assert words in message and f"scan_layers={str(not scan).lower()}" in message


def test_missing_checkpoint_is_refused(folder, capsys):
  message = error_of(capsys, command(folder, "llama2", folder / "nowhere", "missing"))
  assert message == (
    f"{folder / 'nowhere'} is not a checkpoint of MaxText's parameters, or was not written to its "
    "end; give <run>/checkpoints/<step>/items."
  )


def test_existing_output_is_not_overwritten(folder, stock, grafted, capsys):
  grafted("llama2")
  message = error_of(capsys, command(folder, "llama2", stock("llama2")[0], "of_llama2"))
  assert "of_llama2/grafted exists already; choose another run_name, or remove it." in message


def test_config_without_base_block_or_checkpoint_is_refused(folder, stock, capsys):
  items, _ = stock("llama2")
  file = running.write_yaml(
    folder / "plain.yml", **running.TINY, decoder_block="llama2", load_parameters_path=str(items)
  )
  message = error_of(capsys, ["graft", str(file)])
  assert message.startswith(
    "melodi_base_block is not set, so there is nothing to put memory around"
  )
  message = error_of(capsys, command(folder, "llama2", "", "no_path"))
  assert message.startswith("load_parameters_path is not set; ")


def test_stock_checkpoint_cannot_be_stripped(folder, stock, capsys):
  items, _ = stock("llama2")
  message = error_of(capsys, command(folder, "llama2", items, "bare", "--strip"))
  assert message == f"{items} holds no memory parameters, so there is nothing to strip."
