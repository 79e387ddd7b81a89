"""One device = eight devices, with memory and parameters really spread over them."""

import functools

import jax
import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import EQUAL_LAYERS, LENGTHS

STEPS = 3
ONE = {"ici_fsdp_parallelism": 1}
MESHES = {
  "fsdp4_tensor2": {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2},
  "data8": {"ici_fsdp_parallelism": 1, "ici_data_parallelism": 8},
}
each_mesh = pytest.mark.parametrize(
  "mesh", ["fsdp4_tensor2", pytest.param("data8", marks=pytest.mark.slow)]
)
ROWS = {"fsdp4_tensor2": 2, "data8": 1}  # of the batch, on one device
WIDTH = {"fsdp4_tensor2": 16, "data8": 32}  # of memory tokens and parameters, on one device


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Trains on a mesh for STEPS steps, once per mesh."""
  data = running.documents_config(tmp_path_factory.mktemp("data"), LENGTHS)

  @functools.cache
  def trained(mesh: str):
    with running.maxtext_process():
      devices = jax.devices()[:1] if mesh == "one" else None
      config = running.melodi_config(**data, **EQUAL_LAYERS, **MESHES.get(mesh, ONE))
      assert config.global_batch_size_to_train_on == 8
      trainer = running.Trainer(config, devices)
      start = {name: np.asarray(value) for name, value in trainer.memory().items()}
      return trainer, start, [trainer.step() for _ in range(STEPS)]

  return trained


@each_mesh
def test_losses_and_gradients_are_those_of_one_device(run, mesh):
  _, _, alone = run("one")
  _, _, spread = run(mesh)
  for key in ("learning/loss", "learning/raw_grad_norm", "learning/param_norm"):
    np.testing.assert_allclose(
      [step[key] for step in spread], [step[key] for step in alone], rtol=2e-5, err_msg=key
    )
  weights = [step["learning/total_weights"] for step in alone]
  assert weights == [step["learning/total_weights"] for step in spread]
  assert len({step["learning/loss"] for step in alone}) == STEPS


@each_mesh
def test_memory_after_training_is_that_of_one_device(run, mesh):
  alone, spread = run("one")[0].memory(), run(mesh)[0].memory()
  for name, expected in alone.items():
    assert np.abs(expected).max() > 0, name
    np.testing.assert_allclose(spread[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)


@each_mesh
def test_memory_is_sharded_over_the_rows_of_the_batch(run, mesh):
  memory = run(mesh)[0].memory()
  assert {name: value.sharding.shard_shape(value.shape) for name, value in memory.items()} == {
    "memory_short": (3, ROWS[mesh], 4, WIDTH[mesh]),
    "memory_long": (3, ROWS[mesh], 8, WIDTH[mesh]),
    "memory_windows": (ROWS[mesh],),
  }


def test_parameters_are_sharded_over_both_axes(run):
  params = run("fsdp4_tensor2")[0].params()
  shards = {path: leaf.sharding.shard_shape(leaf.shape) for path, leaf in params.items()}
  assert shards["decoder/layers_0_to_2/query"] == (32 // 4, 3, 32 // 2)
  assert shards["decoder/layers_0_to_2/ffn_out"] == (64 // 2, 3, 32 // 4)
  assert shards["decoder/summary_embeddings"] == (4, 32 // 4)
  held = sum(np.prod(shape) for shape in shards.values())
  assert held < 0.25 * sum(leaf.size for leaf in params.values())


@each_mesh
def test_memory_is_empty_before_the_first_step(run, mesh):
  for name, value in run(mesh)[1].items():
    assert not value.any(), name
