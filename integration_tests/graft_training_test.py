"""Training with memory around stock layers: warm start, learning rates, frozen layers, resume."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.checkpoints import graft
from melodi_plugin.cli.main import main
from melodi_plugin.config.parameter_names import is_memory_parameter, is_scalar

# As much as trains in seconds: three layers of which the last has a queue, on one device but where
# devices are what is shown.
ALONE = {"ici_fsdp_parallelism": 1}
SPREAD = {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}
HEADS = {"base_num_query_heads": 4, "base_num_kv_heads": 2}  # that two devices can share
TRAIN = HEADS | {
  "melodi_long_term_layers": "2",
  "per_device_batch_size": 1,
  "gradient_clipping_threshold": 0,
  "learning_rate": 1e-3,
  "warmup_steps_fraction": 0.0,
  "learning_rate_schedule_steps": 100,
  "steps": 4,
}
LENGTHS = [90, 300, 70, 150, 64, 400, 83, 220, 128, 75, 260, 180]
ONLY_MEMORY = ["decoder/memory_layers_", "decoder/summary_embeddings"]
# Without a layer above, the summary tokens of the last layer go nowhere.
UNUSED = "decoder/memory_layers_2_to_2/summary_mixer/"


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def stock(folder):
  """The items of a stock llama2 checkpoint with random weights."""
  with running.maxtext_process():
    from maxtext.common import checkpointing

    model = stock_model.build(stock_model.new_config("llama2", melodi=False, **HEADS))
    stock_model.randomize(model)
    tree = {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
    checkpointing.save_params_to_path(str(folder / "stock"), tree)
  return folder / "stock" / "items"


@pytest.fixture(scope="module")
def keys(folder):
  """Keys of all runs: documents of two windows and more."""
  data = running.documents_config(folder, LENGTHS)
  return stock_model.keys("llama2", **(TRAIN | data | {"base_output_directory": str(folder)}))


@pytest.fixture(scope="module")
def grafted(keys, stock):
  """The items of the grafted checkpoint."""
  with running.maxtext_process():
    config = running.initialize(**keys | {"load_parameters_path": str(stock), "run_name": "g"})
    return graft.graft(config).folder


class Run:
  """A few steps of MaxText's trainer: metrics, and parameters before and after every step."""

  def __init__(self, config, steps: int, devices=None):
    trainer = running.Trainer(config, devices)
    snapshot = lambda: {name: np.asarray(leaf) for name, leaf in trainer.params().items()}  # noqa: E731
    self.params, self.metrics = [snapshot()], []
    for _ in range(steps):
      self.metrics.append(trainer.step())
      self.params.append(snapshot())

  def moved(self, step: int = 0) -> dict[str, np.ndarray]:
    """What step `step` added to every parameter."""
    before, after = self.params[step : step + 2]
    return {name: after[name] - before[name] for name in after}


@pytest.fixture(scope="module")
def run(keys, stock):
  """(steps, keys of its own) -> a run on one device from the stock checkpoint, made once."""

  @functools.cache
  def made(steps: int, **more):
    with running.maxtext_process():
      config = running.initialize(**keys | ALONE | {"load_parameters_path": str(stock)} | more)
      return Run(config, steps, jax.devices()[:1])

  return made


def test_every_parameter_of_memory_learns_within_three_steps(run):
  """At first the queue is empty and mixers without a residual see a copy: hence three steps."""
  done = run(3)
  assert all(np.isfinite(list(step.values())).all() for step in done.metrics)
  first, last = done.params[0], done.params[-1]
  still = [k for k in last if is_memory_parameter(k) and (first[k] == last[k]).all()]
  assert all(name.startswith(UNUSED) for name in still), still
  assert len(still) == sum(name.startswith(UNUSED) for name in last) > 0
  stock = [name for name in last if not is_memory_parameter(name)]
  assert all((first[name] != last[name]).any() for name in stock)


def test_warm_start_says_that_memory_starts_anew(keys, stock, capsys):
  Run(running.initialize(**keys | {"load_parameters_path": str(stock)}), 0)
  assert f"warm start: {stock} holds a stock model; " in capsys.readouterr().err


@pytest.mark.broad
def test_warm_start_equals_the_grafted_checkpoint(keys, run, stock, grafted):
  warm = run(3)
  with running.maxtext_process():
    config = running.initialize(**keys | ALONE | {"load_parameters_path": grafted})
    cold = Run(config, 1, jax.devices()[:1])
  # The initial values of memory depend on the seed only, so even these are the same.
  for step in range(2):
    for name, leaf in warm.params[step].items():
      np.testing.assert_array_equal(cold.params[step][name], leaf, err_msg=name)
  assert cold.metrics[0]["learning/loss"] == warm.metrics[0]["learning/loss"]
  expected = running.checkpoint(stock.parent)
  for name, leaf in expected.items():
    np.testing.assert_array_equal(warm.params[0][name.removeprefix("params/params/")], leaf)


def test_checkpoint_with_memory_is_loaded_with_its_memory_parameters(keys, folder, capsys):
  from maxtext.common import checkpointing

  model = stock_model.build(running.initialize(**keys | {"per_device_batch_size": 0.25}))
  stock_model.randomize(model, seed=5)
  tree = {"params": nnx.to_pure_dict(nnx.state(model, nnx.Param))}
  checkpointing.save_params_to_path(str(folder / "random"), tree)
  capsys.readouterr()
  path = str(folder / "random" / "items")
  trainer = running.Trainer(running.initialize(**keys | {"load_parameters_path": path}))
  assert "warm start" not in capsys.readouterr().err
  expected = stock_model.params_of(model)
  assert trainer.params().keys() == expected.keys()
  for name, leaf in trainer.params().items():
    np.testing.assert_array_equal(np.asarray(leaf), np.asarray(expected[name][...]), err_msg=name)


# -- Learning rates --------------------------------------------------------------------------------


@pytest.mark.broad  # of one update of each in optimizer_test
def test_multipliers_and_weight_decay_act_on_the_first_step_of_what_they_are_for(run):
  """Gates stay; the rest of memory goes twice as far and does not decay; stock weights decay.

  A decay of 1 shrinks them by the learning rate.
  """
  changed = {
    "melodi_memory_learning_rate_multiplier": 2.0,
    "melodi_scalar_learning_rate_multiplier": 0.0,
    "adam_weight_decay": 1.0,
  }
  plain, other = run(3), run(1, **changed).moved()
  more = 1.0 - float(running.initialize().adam_weight_decay)  # than in the plain run
  once = plain.moved()
  for name, delta in once.items():
    if is_scalar(name):
      assert not other[name].any(), name
      continue
    decay = 1e-3 * more * plain.params[0][name]
    expected = 2 * delta if is_memory_parameter(name) else delta - decay
    # The sum with the parameter rounds.
    np.testing.assert_allclose(other[name], expected, atol=1e-6, err_msg=name)
    assert is_memory_parameter(name) or (np.abs(decay) > 1e-5).any(), name
  assert any(is_scalar(name) and delta.any() for name, delta in once.items())
  memory = [name for name, delta in once.items() if is_memory_parameter(name) and delta.any()]
  assert any(np.abs(once[name]).max() > 5e-4 for name in memory)
  assert any((1e-3 * np.abs(plain.params[0][name]) > 1e-4).any() for name in memory)  # would show


@pytest.mark.slow
def test_command_warns_of_gates_that_have_hardly_moved(folder, keys, capsys):
  own = {"hardware": "cpu", "melodi_scalar_learning_rate_multiplier": 0.1}
  file = running.write_yaml(folder / "gates.yml", **keys | own)
  assert main(["train", str(file), "run_name=gates"]) == 0
  said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
  assert len(said) == 1 and said[0].startswith("warning: gates have moved by at most 0.000")


# -- Resume and sharding ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def only_memory(folder, keys, stock):
  """Runs whose stock model MaxText's mask freezes: `through`, and `resumed` after two steps."""
  own = {"enable_checkpointing": True, "checkpoint_period": 100, "load_parameters_path": str(stock)}
  own |= {"melodi_memory_learning_rate_multiplier": 3.0, "trainable_parameters_mask": ONLY_MEMORY}
  file = running.write_yaml(folder / "resume.yml", **keys | own)
  for run_name, steps in (("through", 4), ("resumed", 2), ("resumed", 4)):
    running.train(str(file), f"run_name={run_name}", f"steps={steps}")
  return lambda name, step: running.checkpoint(folder / name / "checkpoints" / str(step))


@pytest.mark.broad  # of MELODI in resume_test
def test_resumed_run_ends_in_the_state_of_the_run_that_never_stopped(only_memory):
  one, other = only_memory("through", 3), only_memory("resumed", 3)
  assert one.keys() == other.keys()
  assert any("memory_layers_" in name for name in one)
  for name, leaf in one.items():
    np.testing.assert_array_equal(other[name], leaf, err_msg=name)


@pytest.mark.broad  # of one update in optimizer_test
def test_maxtexts_mask_freezes_the_stock_model_bit_for_bit(only_memory, stock):
  before, after = only_memory("resumed", 1), only_memory("resumed", 3)
  for name, leaf in running.checkpoint(stock.parent).items():
    np.testing.assert_array_equal(after[name], leaf, err_msg=name)
  params = [name for name in after if name.startswith("params/") and is_memory_parameter(name)]
  assert any((before[name] != after[name]).any() for name in params)


@pytest.mark.slow  # by default of MELODI in sharding_test, of Adafactor in optimizer_test
def test_eight_devices_give_the_loss_of_one(keys, run, stock):
  config = running.initialize(**keys | SPREAD | {"load_parameters_path": str(stock)})
  runs = Run(config, 2).metrics, run(3).metrics[:2]
  for key in ("learning/loss", "learning/raw_grad_norm"):
    values = [[step[key] for step in metrics] for metrics in runs]
    np.testing.assert_allclose(*values, rtol=1e-5, err_msg=key)
