"""Training with memory around stock layers: warm start, learning rates, frozen layers, resume."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.checkpoints import graft
from melodi_plugin.config.parameter_names import is_gate, is_memory_parameter

# As much as trains in seconds: three layers of which the last has a queue.
TRAIN = {
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

    model = stock_model.build(stock_model.new_config("llama2", melodi=False))
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
  """(steps, keys of its own) -> a run from the stock checkpoint, made once."""

  @functools.cache
  def made(steps: int, **more):
    with running.maxtext_process():
      more = {name: list(v) if isinstance(v, tuple) else v for name, v in more.items()}
      return Run(running.initialize(**keys | {"load_parameters_path": str(stock)} | more), steps)

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
  assert f"warm start: {stock.parent} holds a stock model; " in capsys.readouterr().err


def test_warm_start_equals_the_grafted_checkpoint(keys, run, stock, grafted):
  warm = run(1)
  with running.maxtext_process():
    cold = Run(running.initialize(**keys | {"load_parameters_path": grafted}), 1)
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


def test_multipliers_scale_the_first_step_of_memory_and_of_gates_and_of_nothing_else(run):
  """Zero leaves the gates where they start, and trains the rest."""
  scaled = {
    "melodi_memory_learning_rate_multiplier": 2.0,
    "melodi_gate_learning_rate_multiplier": 0.0,
  }
  once, more = run(3).moved(), run(1, **scaled).moved()
  for name, delta in once.items():
    factor = 0 if is_gate(name) else 2 if is_memory_parameter(name) else 1
    # The sum with the parameter rounds.
    np.testing.assert_allclose(more[name], factor * delta, atol=1e-6, err_msg=name)
    if is_gate(name):
      assert not more[name].any(), name
  assert any(is_gate(name) and delta.any() for name, delta in once.items())
  memory = [name for name, delta in once.items() if is_memory_parameter(name) and delta.any()]
  assert any(np.abs(once[name]).max() > 5e-4 for name in memory)


def test_weight_decay_does_not_touch_memory(run):
  """The first step with a decay of 1 shrinks stock weights by the learning rate, and no others."""
  plain, decayed = run(3), run(1, adam_weight_decay=1.0)
  more = 1.0 - float(running.initialize().adam_weight_decay)  # than the other run's
  for name, leaf in plain.params[1].items():
    own = decayed.params[1][name]
    if is_memory_parameter(name):
      np.testing.assert_array_equal(own, leaf, err_msg=name)
    else:
      shrunk = leaf - 1e-3 * more * plain.params[0][name]
      np.testing.assert_allclose(own, shrunk, atol=1e-6, err_msg=name)
      assert (own != leaf).any(), name


def test_maxtexts_mask_freezes_the_stock_model_bit_for_bit(run):
  done = run(2, trainable_parameters_mask=tuple(ONLY_MEMORY))
  for name, before in done.params[0].items():
    moved = (done.params[-1][name] != before).any()
    if not is_memory_parameter(name):
      assert not moved, name
  assert any((done.params[-1][n] != leaf).any() for n, leaf in done.params[0].items())


# -- Resume and sharding ---------------------------------------------------------------------------


def test_resumed_run_ends_in_the_state_of_the_run_that_never_stopped(folder, keys, stock):
  saving = {"enable_checkpointing": True, "checkpoint_period": 100}
  own = saving | {"melodi_memory_learning_rate_multiplier": 3.0, "load_parameters_path": str(stock)}
  file = running.write_yaml(folder / "resume.yml", **keys | own)
  for run_name, steps in (("through", 4), ("resumed", 2), ("resumed", 4)):
    running.train(str(file), f"run_name={run_name}", f"steps={steps}")
  one, other = (
    running.checkpoint(folder / name / "checkpoints" / "3") for name in ("through", "resumed")
  )
  assert one.keys() == other.keys()
  assert any("memory_layers_" in name for name in one)
  for name, leaf in one.items():
    np.testing.assert_array_equal(other[name], leaf, err_msg=name)


def test_eight_devices_give_the_loss_of_one(keys):
  heads = {"base_num_query_heads": 4, "base_num_kv_heads": 2}  # that can be shared by two devices
  meshes = {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}, {"ici_fsdp_parallelism": 1}
  runs = [
    Run(running.initialize(**keys | heads | mesh), 2, devices)
    for mesh, devices in zip(meshes, (None, jax.devices()[:1]), strict=True)
  ]
  for key in ("learning/loss", "learning/raw_grad_norm"):
    values = [[step[key] for step in done.metrics] for done in runs]
    np.testing.assert_allclose(*values, rtol=1e-5, err_msg=key)
