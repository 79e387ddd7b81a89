"""What a run computes does not depend on its devices, also if they change when it goes on.

All of it: uv run pytest -m slow integration_tests/mesh_test.py
"""

import functools
import shutil

import jax
import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import EQUAL_LAYERS, LENGTHS, write_config

pytestmark = pytest.mark.slow

AXES = ("data", "fsdp", "tensor", "context")
ONE = (1, 1, 1, 1)
SAVED = (1, 4, 2, 1)
COMBINATIONS = [
  (data, fsdp, 8 // data // fsdp, 1)
  for data in (1, 2, 4, 8)
  for fsdp in (1, 2, 4, 8)
  if data * fsdp <= 8
]
IN_CONTEXT = [(1, 1, 1, 8), (1, 4, 1, 2), (2, 1, 2, 2)]
STOP, MORE = 3, 20


def named(mesh) -> str:
  return "_".join(f"{axis}{size}" for axis, size in zip(AXES, mesh, strict=True) if size > 1)


def mesh_keys(mesh) -> dict:
  keys = {f"ici_{axis}_parallelism": size for axis, size in zip(AXES, mesh, strict=True)}
  return keys | {"context_parallel_load_balance": False}


def devices_of(mesh):
  return jax.devices()[:1] if mesh == ONE else None


def assert_same_memory(found, expected) -> None:
  for name, leaf in expected.items():
    assert np.abs(leaf).max() > 0, name
    np.testing.assert_allclose(found[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """The config of all runs; as many heads as a mesh may have devices for them."""
  folder = tmp_path_factory.mktemp("mesh")
  heads = {"base_num_query_heads": 8, "base_num_kv_heads": 8, "head_dim": 4}
  own = {"dropout_rate": 0.0, "learning_rate": 1e-2, "learning_rate_schedule_steps": 100}
  own |= {"sharding_tolerance": 0.1}  # small arrays are much of so small a model
  return write_config(
    folder,
    lengths=LENGTHS * 2,
    matmul_precision="highest",
    **own | heads | EQUAL_LAYERS,
    **mesh_keys(SAVED),
  )


def train(config, mesh, count: int, **keys):
  """Losses of `count` steps, and the memory after them."""
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    trainer = running.Trainer(
      running.from_yaml(config, **mesh_keys(mesh), **keys), devices_of(mesh)
    )
    losses = [trainer.step()["learning/loss"] for _ in range(count)]
    memory = {name: np.asarray(leaf) for name, leaf in trainer.memory().items()}
    place = trainer.loader.data_iterator.local_iterator.get_state()
  return losses, memory, place


@pytest.fixture(scope="module")
def alone(config):
  """Four steps on one device, from the start."""
  return train(config, ONE, 4, enable_checkpointing=False)


@pytest.mark.parametrize("mesh", COMBINATIONS + IN_CONTEXT, ids=named)
def test_eight_devices_are_one(config, alone, mesh):
  losses, memory, place = train(config, mesh, 4, enable_checkpointing=False)
  np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
  assert_same_memory(memory, alone[1])
  assert place == alone[2]


def test_three_axes_are_refused_where_gradients_would_be_wrong(config):
  with pytest.raises(ValueError, match="data, fsdp and tensor together gives wrong gradients"):
    train(config, (2, 2, 2, 1), 1, enable_checkpointing=False, melodi_schedule="windows")


@pytest.fixture(scope="module")
def goes_on(config):
  """A run of fsdp 4 x tensor 2 has stopped; goes on with it on other devices."""
  running.train(str(config), "run_name=stopped", f"steps={STOP}")

  @functools.cache
  def go_on(mesh):
    name = f"on_{named(mesh) or 'one'}"
    out = config.parent / "out"
    shutil.copytree(out / "stopped", out / name)
    return train(config, mesh, MORE, run_name=name, steps=STOP + MORE)

  return go_on


@pytest.mark.parametrize("mesh", [(1, 8, 1, 1), (8, 1, 1, 1), ONE], ids=lambda m: named(m) or "one")
def test_run_goes_on_with_other_devices(goes_on, mesh):
  losses, memory, place = goes_on(mesh)
  expected, kept, end = goes_on(SAVED)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  assert_same_memory(memory, kept)
  assert place == end
