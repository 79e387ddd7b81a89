"""Scanning, schedules, remat, tiling, dropout and types change the speed, not the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running

# 4 layers with the queue in layer 2: runs of 2, 1 and 1 layers.  2 rows.
SIZES = {"base_num_decoder_layers": 4, "per_device_batch_size": 0.25, "enable_dropout": False}
REFERENCE = {"scan_layers": False, "remat_policy": "none", "melodi_schedule": "layers"}
BATCH, LENGTH = 2, 64
SEGMENTS = 2


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def build(**keys) -> nnx.Module:
  """MaxText's model on one device."""
  from maxtext.utils import maxtext_utils, model_creation_utils

  config, devices = running.melodi_config(**(SIZES | keys)), jax.devices()[:1]
  mesh = maxtext_utils.get_mesh_from_config(config, devices)
  return model_creation_utils.from_config(config, devices=devices, mesh=mesh, rngs=nnx.Rngs(0))


def batches() -> list[dict[str, jax.Array]]:
  """Two segments: row 0 goes on, row 1 starts a document in the middle of the second segment."""
  tokens = np.random.default_rng(0).integers(1, 64, (SEGMENTS, BATCH, LENGTH + 1), np.int32)
  positions = np.tile(np.arange(SEGMENTS * LENGTH, dtype=np.int32), (BATCH, 1))
  positions[1, LENGTH + 32 :] = np.arange(32)
  ids = np.ones_like(positions)
  ids[1, LENGTH + 32 :] = 2
  ids[1, LENGTH + 20 : LENGTH + 32] = 0  # padding at the end of the first document
  return [
    {
      "inputs": jnp.asarray(tokens[k, :, :-1]),
      "inputs_position": jnp.asarray(positions[:, k * LENGTH : (k + 1) * LENGTH]),
      "inputs_segmentation": jnp.asarray(ids[:, k * LENGTH : (k + 1) * LENGTH]),
      "targets": jnp.asarray(tokens[k, :, 1:]),
      "targets_segmentation": jnp.asarray(ids[:, k * LENGTH : (k + 1) * LENGTH]),
    }
    for k in range(SEGMENTS)
  ]


def unscanned(tree: dict, axis: int = 1) -> dict:
  """A flat tree {path: array} with runs of layers cut into single layers."""
  flat = {}
  for path, leaf in tree.items():
    if not path[1].startswith("layers_") or "_to_" not in path[1]:
      flat[path] = leaf
      continue
    first, last = (int(part) for part in path[1].removeprefix("layers_").split("_to_"))
    assert leaf.shape[axis] == last - first + 1
    for index in range(first, last + 1):
      name = (path[0], f"layers_{index}", *path[2:])
      flat[name] = jnp.take(leaf, index - first, axis=axis)
  return flat


def flat(state: nnx.State) -> dict:
  return {path: leaf[...] for path, leaf in nnx.to_flat_state(state)}


@functools.cache
def weights() -> dict:
  """Parameters off their initial values, so that a missing term shows, in single layers."""
  with running.maxtext_process():
    params = flat(nnx.state(build(**REFERENCE), nnx.Param))
  chance = np.random.default_rng(1)
  return {
    path: leaf + 0.1 * jnp.asarray(chance.standard_normal(leaf.shape), leaf.dtype)
    for path, leaf in sorted(params.items())
  }


def put_weights(model: nnx.Module) -> None:
  """Copies `weights` into a model, stacked where its layers are scanned."""
  single, axis = weights(), model.config.param_scan_axis
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    parts = unscanned({path: variable[...]}, axis)
    stacked = [single[name] for name in parts]
    scanned = parts.keys() != {path}
    variable[...] = jnp.stack(stacked, axis=axis) if scanned else stacked[0]
    nnx.update(model, nnx.from_flat_state([(path, variable)]))


def outcome(**keys):
  """Of both segments: losses, logits, the gradient of the second; and the memory at the end."""
  from maxtext.trainers.pre_train import train

  model = build(**keys)
  put_weights(model)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  def read(params, rest, batch):
    def loss(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      value, aux = train.loss_fn(model, model.config, dict(batch), None, None)
      return value, (nnx.split(model, nnx.Param, ...)[2], aux["total_weights"])

    (value, (rest, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, grads, rest

  losses = []
  for batch in batches():
    value, grads, rest = read(params, rest, batch)
    losses.append(value)
  memory = {path[-1]: leaf for path, leaf in flat(rest).items() if "memory_" in str(path[-1])}
  return jnp.stack(losses), unscanned(flat(grads)), memory


@functools.cache
def reference():
  return outcome(**REFERENCE)


def assert_equal(found, expected, tolerance: float = 1e-6) -> None:
  """Equal to `tolerance` of the largest number of each array."""
  paths = jax.tree.leaves_with_path(expected)
  for (path, right), left in zip(paths, jax.tree.leaves(found), strict=True):
    scale = max(1.0, float(jnp.abs(right).max()))
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * scale, err_msg=name)


def test_the_reference_reads_memory():
  losses, grads, memory = reference()
  assert losses[0] != losses[1] and jnp.isfinite(losses).all()
  assert memory.keys() == {"memory_short", "memory_long", "memory_windows"}
  assert memory["memory_windows"].tolist() == [8, 2]
  for path, grad in grads.items():
    assert jnp.abs(grad).max() > 0, path


@pytest.mark.parametrize("schedule", ["layers", "windows"])
@pytest.mark.parametrize("remat", ["full", "none", "minimal", "save_qkv_proj"])
def test_scanned_layers_equal_single_layers(schedule, remat):
  scanned = {"scan_layers": True, "melodi_schedule": schedule, "remat_policy": remat}
  assert_equal(outcome(**scanned), reference())


@pytest.mark.parametrize("remat", ["full", "none"])
def test_single_layers_window_by_window_equal_layer_by_layer(remat):
  keys = {"scan_layers": False, "melodi_schedule": "windows", "remat_policy": remat}
  assert_equal(outcome(**keys), reference())


def test_logits_in_tiles_of_the_vocabulary_give_the_same_loss_and_gradients():
  assert_equal(outcome(scan_layers=True, num_vocab_tiling=2), reference())
