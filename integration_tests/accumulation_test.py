"""A step of several microbatches = the undivided step: losses, gradients, memory.

All of it: uv run pytest -m 'slow or not slow' integration_tests/accumulation_test.py
"""

import functools
import shutil

import jax
import numpy as np
import pytest

from integration_tests import running, stock_model
from integration_tests.saved_runs import (
  EQUAL_LAYERS,
  LENGTHS,
  STEPS,
  assert_same_checkpoint,
  checkpoints,
  write_config,
)
from melodi_plugin.testing.cases import broad_but

ROWS = 16  # of the batch; the tests' own process has eight devices
ONE = {"ici_fsdp_parallelism": 1}
MESH = {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}
SMALL = {
  "base_num_decoder_layers": 1,
  "base_num_kv_heads": 2,
  "max_target_length": 32,
  "dropout_rate": 0.0,
  "matmul_precision": "highest",
  # So that parameters differ by the sum of the gradients.
  "opt_type": "sgd",
  "learning_rate": 0.1,
  "warmup_steps_fraction": 0.0,
  "gradient_clipping_threshold": 0.0,
}
OF_ONE_LAYER = dict.fromkeys(("melodi_long_term_layers", "melodi_recurrent_layers"), "0")
DISTILLED = {
  "melodi_distill_weight": 5.0,
  "melodi_distill_temperature": 2.0,
  "melodi_long_term_windows_drawn": "0,1,3",
}
AROUND = stock_model.keys("llama2", melodi_long_term_layers="0")
CACHED = {"melodi_cache_tokens": 24, "melodi_sink_tokens": 4}
SYSTEMS = {
  "paper": running.MELODI,
  **{block: stock_model.keys(block, melodi_long_term_layers="0") for block in stock_model.BLOCKS},
  **running.SYSTEMS,
  "cache around llama2": AROUND | CACHED,
  "distilled": AROUND | DISTILLED,
}
each_system = pytest.mark.parametrize(
  "system", broad_but(["paper"], SYSTEMS, slow=[s for s in SYSTEMS if s not in ("paper", "llama2")])
)


def keys_of(system: str, microbatches: int) -> dict:
  """A tiny model of one layer; gemma's has as many as its pattern needs."""
  own = running.TINY | SYSTEMS[system]
  own |= {key: value for key, value in OF_ONE_LAYER.items() if own.get(key)}
  layers = {} if system == "gemma3" else {"base_num_decoder_layers": 1}
  devices = jax.device_count()
  return (
    own
    | SMALL
    | layers
    | {
      "gradient_accumulation_steps": microbatches,
      "per_device_batch_size": ROWS // microbatches // devices,
    }
  )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Trains for three steps, once per config: metrics, parameters before and after, memory."""
  data = running.documents_config(tmp_path_factory.mktemp("data"), LENGTHS * 2)

  @functools.cache
  def trained(system: str, microbatches: int, *, sharded: bool = False):
    keys = keys_of(system, microbatches) | data | (MESH if sharded else ONE)
    with running.maxtext_process():
      trainer = running.Trainer(running.initialize(**keys), None if sharded else jax.devices()[:1])
      numpy = lambda tree: {name: np.asarray(leaf) for name, leaf in tree.items()}  # noqa: E731
      before = numpy(trainer.params())
      metrics = [trainer.step() for _ in range(3)]
      return metrics, before, numpy(trainer.params()), trainer.memory()

  return trained


def assert_same(found, expected, tolerance: float) -> None:
  """Metrics, sums of gradients and memory are the same, and memory is not empty.

  Ten times the tolerance where terms of either sign cancel: single gradients, and divergences.
  """
  metrics, _, after, memory = found
  whole, start, end, kept = expected
  for name in whole[0]:
    if name != "learning/perplexity":  # says what learning/lm_loss says
      ours, theirs = ([step[name] for step in of] for of in (metrics, whole))
      within = 10 * tolerance if name == "melodi/distill" else tolerance
      np.testing.assert_allclose(ours, theirs, rtol=within, err_msg=name)
  for name, first in start.items():
    # What is lost where a gradient is added to a parameter is no difference between gradients.
    lost = 3 * np.finfo(np.float32).eps * np.abs(first).max()
    within = 10 * tolerance * np.abs(end[name] - first).max() + lost
    np.testing.assert_allclose(after[name], end[name], rtol=0, atol=within, err_msg=name)
  assert kept.keys() == memory.keys() and kept
  for name, leaf in kept.items():
    largest = np.abs(leaf).max()
    assert largest > 0, name
    np.testing.assert_allclose(memory[name], leaf, rtol=0, atol=tolerance * largest, err_msg=name)


@each_system
def test_two_microbatches_are_the_undivided_step(run, system):
  assert_same(run(system, 2), run(system, 1), 1e-6)


def test_rows_differ_so_that_mixing_them_would_show(run):
  _, _, _, memory = run("paper", 1)
  rows = np.asarray(memory["memory_short"])[0].reshape(ROWS, -1)
  assert len({row.tobytes() for row in rows}) == ROWS


@pytest.mark.slow
@pytest.mark.parametrize("system", ["paper", "llama2", "distilled"])
def test_microbatches_on_eight_devices_are_the_undivided_step_on_one(run, system):
  spread = run(system, 2, sharded=True)
  assert_same(spread, run(system, 1), 2e-5)
  for name, leaf in spread[3].items():
    axis = 0 if name == "memory_windows" else 1
    assert leaf.sharding.shard_shape(leaf.shape)[axis] == ROWS // 4, name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Runs of two microbatches: `through`; `resumed` after three steps; `undivided` from there on."""
  folder = tmp_path_factory.mktemp("resume")
  keys = EQUAL_LAYERS | MESH | {"gradient_accumulation_steps": 2, "dropout_rate": 0.0}
  config = write_config(folder, learning_rate=1e-2, matmul_precision="highest", **keys)

  def train(name, steps, *more):
    log = f"metrics_file={folder / name}.jsonl"
    running.train(str(config), f"run_name={name}", f"steps={steps}", log, *more)

  train("through", STEPS)
  train("resumed", 3)
  shutil.copytree(folder / "out" / "resumed", folder / "out" / "undivided")
  train("resumed", STEPS)
  train("undivided", STEPS, "gradient_accumulation_steps=1", "per_device_batch_size=2")
  return folder


@pytest.mark.slow
def test_resumed_run_ends_in_the_very_state_of_the_run_that_never_stopped(folder):
  last = [checkpoints(folder, name) / str(STEPS - 1) for name in ("through", "resumed")]
  assert_same_checkpoint(*last)


@pytest.mark.slow
def test_run_goes_on_with_another_number_of_microbatches_and_as_many_rows(folder):
  through, other = (running.metrics(folder / f"{n}.jsonl") for n in ("through", "undivided"))
  losses = [[line["learning/loss"] for line in run] for run in (other, through[3:])]
  assert len(losses[0]) == STEPS - 3
  np.testing.assert_allclose(*losses, rtol=1e-6)
  last = [checkpoints(folder, name) / str(STEPS - 1) for name in ("through", "undivided")]
  assert running.iterator_state(last[0]) == running.iterator_state(last[1])
