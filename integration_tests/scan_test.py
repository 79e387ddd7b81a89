"""Scanning, schedules, remat, tiling, dropout and types change the speed, not the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running

SIZES = {"per_device_batch_size": 0.25, "enable_dropout": False}  # 2 rows
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
def weights(window_length: int) -> dict:
  """Parameters off their initial values, so that a missing term shows, in single layers."""
  model = build(**REFERENCE, melodi_window_length=window_length)
  params = flat(nnx.state(model, nnx.Param))
  chance = np.random.default_rng(1)
  return {
    path: leaf + 0.1 * jnp.asarray(chance.standard_normal(leaf.shape), leaf.dtype)
    for path, leaf in sorted(params.items())
  }


def put_weights(model: nnx.Module) -> None:
  """Copies `weights` into a model, stacked where its layers are scanned."""
  config = model.config
  single, axis = weights(config.melodi_window_length), config.param_scan_axis
  for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
    parts = unscanned({path: variable[...]}, axis)
    stacked = [single[name] for name in parts]
    scanned = parts.keys() != {path}
    variable[...] = jnp.stack(stacked, axis=axis) if scanned else stacked[0]
    nnx.update(model, nnx.from_flat_state([(path, variable)]))


def reader(model: nnx.Module, *, is_train: bool = True, gradients: bool = True):
  """A compiled (params, rest, batch) -> (loss, gradients, rest) of MaxText's loss function."""
  from maxtext.trainers.pre_train import train

  graphdef = nnx.graphdef(model)

  def loss(params, rest, batch):
    model = nnx.merge(graphdef, params, rest, copy=True)
    value, _ = train.loss_fn(model, model.config, dict(batch), None, None, is_train=is_train)
    return value, nnx.split(model, nnx.Param, ...)[2]

  def read(params, rest, batch):
    if not gradients:
      value, rest = loss(params, rest, batch)
      return value, None, rest
    (value, rest), grads = jax.value_and_grad(loss, has_aux=True)(params, rest, batch)
    return value, grads, rest

  return jax.jit(read)


def memory_of(rest: nnx.State) -> dict[str, jax.Array]:
  return {path[-1]: leaf for path, leaf in flat(rest).items() if "memory_" in str(path[-1])}


def outcome(**keys):
  """Losses of both segments, gradients of the second, memory at the end."""
  model = build(**keys)
  put_weights(model)
  _, params, rest = nnx.split(model, nnx.Param, ...)
  read, losses, grads = reader(model), [], nnx.State({})
  for batch in batches():
    loss, grads, rest = read(params, rest, batch)
    losses.append(loss)
  axis = model.config.param_scan_axis
  return jnp.stack(losses), unscanned(flat(grads), axis), memory_of(rest)


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
  # The paper keeps the last layer's mixer for the next layer, which nothing reads.
  unread = {path for path, grad in grads.items() if not jnp.any(grad)}
  assert {path[:3] for path in unread} == {("decoder", "layers_2", "summary_mixer")}


@pytest.mark.parametrize(
  "schedule, remat",
  [
    ("windows", "minimal"),
    pytest.param("layers", "full", marks=pytest.mark.slow),  # by default in optimizer_test
    pytest.param("layers", "none", marks=pytest.mark.slow),
    pytest.param("layers", "minimal", marks=pytest.mark.slow),
    pytest.param("layers", "save_qkv_proj", marks=pytest.mark.slow),
    pytest.param("diagonal", "full", marks=pytest.mark.broad),
    pytest.param("diagonal", "none", marks=pytest.mark.slow),
    pytest.param("windows", "full", marks=pytest.mark.slow),
    pytest.param("windows", "none", marks=pytest.mark.slow),
    pytest.param("windows", "save_qkv_proj", marks=pytest.mark.slow),
  ],
)
def test_scanned_layers_equal_single_layers(schedule, remat):
  scanned = {"scan_layers": True, "melodi_schedule": schedule, "remat_policy": remat}
  assert_equal(outcome(**scanned), reference())


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "none"])
def test_single_layers_window_by_window_equal_layer_by_layer(remat):
  keys = {"scan_layers": False, "melodi_schedule": "windows", "remat_policy": remat}
  assert_equal(outcome(**keys), reference())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["layers", "windows"])
def test_one_window_per_segment_scanned_equals_single_layers(schedule):
  one = {"melodi_window_length": LENGTH}
  scanned = outcome(**one, scan_layers=True, melodi_schedule=schedule)
  assert_equal(scanned, outcome(**(REFERENCE | one)))


@pytest.mark.slow
def test_logits_in_tiles_of_the_vocabulary_give_the_same_loss_and_gradients():
  assert_equal(outcome(scan_layers=True, num_vocab_tiling=2), reference())


def traced(remat: str) -> str:
  """The traced gradient of a model under a remat policy."""
  model = build(scan_layers=True, remat_policy=remat)
  _, params, rest = nnx.split(model, nnx.Param, ...)
  return str(reader(model).trace(params, rest, batches()[0]).jaxpr)


@pytest.mark.broad
def test_remat_policy_reaches_the_cells():
  full, none, some = (traced(remat) for remat in ("full", "none", "save_qkv_proj"))
  assert full.count("prevent_cse=") > none.count("prevent_cse=") == 0
  assert "save_only_these_names" in some and "save_only_these_names" not in full


@pytest.mark.broad  # of the schedules in core/schedules/dropout_test
def test_dropout_trains_and_evaluation_drops_nothing():
  model = build(scan_layers=True, dropout_rate=0.1, enable_dropout=True)
  put_weights(model)
  _, params, rest = nnx.split(model, nnx.Param, ...)
  batch = batches()[0]
  dropping = reader(model, gradients=False)
  first, _, after = dropping(params, rest, batch)
  again, _, _ = dropping(params, rest, batch)
  assert jnp.isfinite(first) and first == again

  # The next step drops other units, though it reads the same tokens with the same memory.
  moved = nnx.to_flat_state(after)
  memory = nnx.to_flat_state(rest)
  rewound = [
    (path, old if "memory_" in str(path[-1]) else new)
    for (path, new), (_, old) in zip(moved, memory, strict=True)
  ]
  other, _, _ = dropping(params, nnx.from_flat_state(rewound), batch)
  assert jnp.isfinite(other) and other != first

  evaluating = reader(model, is_train=False, gradients=False)
  kept, _, _ = evaluating(params, rest, batch)
  assert kept == evaluating(params, nnx.from_flat_state(rewound), batch)[0]
  np.testing.assert_allclose(kept, reference()[0][0], rtol=1e-6)
  assert abs(kept - first) > 1e-4


@pytest.mark.parametrize(
  "memory_dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.broad)]
)
def test_bfloat16_model_carries_memory_in_its_own_type(memory_dtype):
  model = build(dtype="bfloat16", melodi_memory_dtype=memory_dtype, remat_policy="none")
  put_weights(model)
  _, params, rest = nnx.split(model, nnx.Param, ...)
  read = reader(model, gradients=False)
  for batch, expected in zip(batches(), reference()[0], strict=True):
    loss, _, rest = read(params, rest, batch)
    np.testing.assert_allclose(loss, expected, rtol=0.02)
    assert loss != expected
  memory = memory_of(rest)
  assert memory["memory_short"].dtype == memory["memory_long"].dtype == memory_dtype
  assert jnp.abs(memory["memory_long"]).max() > 0
  for name in ("memory_short", "memory_long"):
    exact = np.asarray(reference()[2][name])
    error = np.abs(np.asarray(memory[name], np.float32) - exact).max()
    assert 0 < error < 0.1 * np.abs(exact).max(), name
