"""Where every device reads its own rows, weights move once per layer; nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from melodi_plugin.bench.compiled import collectives
from melodi_plugin.bench.hlo import executed
from melodi_plugin.systems.paper import layer as paper_layer
from melodi_plugin.systems.stock import reader as stock_reader

pytestmark = pytest.mark.broad  # eight devices train as one by default in sharding_test.py

ROWS, LENGTH, WINDOWS = 8, 64, 4  # no run of layers is as long as a segment has windows
MESHES = {
  "fsdp8": {"ici_fsdp_parallelism": 8},
  "fsdp4_tensor2": {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2},
  "data2_fsdp4": {"ici_data_parallelism": 2, "ici_fsdp_parallelism": 4},
  "data8": {"ici_fsdp_parallelism": 1, "ici_data_parallelism": 8},
}
ONE = {"ici_fsdp_parallelism": 1}
OTHERS = [name for name, keys in running.SYSTEMS.items() if "melodi_schedule" not in keys]


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def batch() -> dict[str, jax.Array]:
  """Rows of one document, of two, and with padding."""
  tokens = np.random.default_rng(0).integers(1, 64, (ROWS, LENGTH + 1), np.int32)
  positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
  ids = np.ones_like(positions)
  positions[::3, 32:] = np.arange(32)
  ids[::3, 32:] = 2
  ids[::3, 20:32] = 0
  return {
    "inputs": jnp.asarray(tokens[:, :-1]),
    "inputs_position": jnp.asarray(positions),
    "inputs_segmentation": jnp.asarray(ids),
    "targets": jnp.asarray(tokens[:, 1:]),
    "targets_segmentation": jnp.asarray(ids),
  }


def traced(params, **keys):
  """MaxText's loss of a batch on a mesh with its gradients: traced, and what it is given."""
  from flax.linen import logical_axis_rules
  from maxtext.trainers.pre_train import train
  from maxtext.utils import maxtext_utils, model_creation_utils

  one = keys.items() >= ONE.items() and "ici_data_parallelism" not in keys
  devices = jax.devices()[: 1 if one else 8]
  keys |= {"per_device_batch_size": 1, "enable_dropout": False}
  config = running.initialize(**keys)
  mesh = maxtext_utils.get_mesh_from_config(config, devices)
  with jax.set_mesh(mesh), logical_axis_rules(config.logical_axis_rules):
    model = model_creation_utils.from_config(config, devices=devices, mesh=mesh, rngs=nnx.Rngs(0))
    graphdef, own, rest = nnx.split(model, nnx.Param, ...)
    if params is not None:
      own = jax.tree.map(lambda leaf, value: jax.device_put(value, leaf.sharding), own, params)

    def loss(params, rest, batch):
      model = nnx.merge(graphdef, params, rest, copy=True)
      value, _ = train.loss_fn(model, config, dict(batch), None, None, is_train=True)
      memory = nnx.split(model, nnx.Param, ...)[2].decoder
      return value, [leaf for path, leaf in nnx.to_flat_state(memory) if "memory" in str(path)]

    given = own, rest, batch()
    return jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(*given), given


class Reading:
  """MaxText's loss of a batch on a mesh: compiled, and what it gives."""

  def __init__(self, params, **keys):
    trace, given = traced(params, **keys)
    self.params = jax.tree.map(np.asarray, given[0])
    read = trace.lower().compile()
    self.text = read.as_text()
    (self.loss, self.memory), self.gradients = jax.tree.map(np.asarray, read(*given))

  def in_windows(self) -> list:
    """The collectives that are executed in every window."""
    return [own for own in collectives(list(executed(self.text))) if WINDOWS in own.loops]


@functools.cache
def alone(model: str) -> Reading:
  return Reading(None, **keys_of(model), **ONE)


def keys_of(model: str) -> dict:
  """The keys of a system, or of memory around a block."""
  remat = {"remat_policy": "full"}
  if model in stock_model.BLOCKS:
    sizes = {"max_target_length": LENGTH, "per_device_batch_size": 1, "base_num_kv_heads": 2}
    return stock_model.keys(model) | {"base_num_query_heads": 4} | sizes | remat
  return running.MELODI | running.SYSTEMS.get(model, {}) | remat


def check(spread: Reading, model: str, tolerance: float = 1e-5) -> None:
  """Loss, memory and gradients are those of one device."""
  one = alone(model)
  np.testing.assert_allclose(spread.loss, one.loss, rtol=tolerance)
  for found, expected in zip(spread.memory, one.memory, strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-5)
  names = [path for path, _ in nnx.to_flat_state(one.gradients)]
  pairs = zip(jax.tree.leaves(spread.gradients), jax.tree.leaves(one.gradients), strict=True)
  for name, (found, expected) in zip(names, pairs, strict=True):
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() <= tolerance * largest, name


def spread_over(mesh: str, model: str = "melodi", **keys) -> Reading:
  return Reading(alone(model).params, **(keys_of(model) | MESHES[mesh] | keys))


@pytest.mark.parametrize("mesh", MESHES)
def test_nothing_moves_in_windows_and_gradients_are_those_of_one_device(mesh):
  spread = spread_over(mesh)
  check(spread, "melodi", 2e-6)
  found = spread.in_windows()
  if "tensor" in mesh:  # parts of heads are summed wherever they are used
    found = [own for own in found if own.kind not in ("all-reduce", "all-gather")]
  assert not found, found


@pytest.mark.parametrize("model", [*OTHERS, "llama2", "qwen3", "gemma2", "gemma3"])
def test_so_it_is_of_other_systems_and_around_blocks(model):
  spread = spread_over("fsdp8", model)
  check(spread, model)
  assert not spread.in_windows()


@pytest.mark.parametrize(
  "keys",
  [
    {"remat_policy": "minimal_offloaded"},
    {"remat_policy": "custom", "decoder_layer_input": "offload"},
  ],
  ids=lambda keys: keys["remat_policy"],
)
def test_what_is_kept_may_lie_in_the_hosts_memory(keys):
  check(spread_over("fsdp8", "llama2", **keys), "llama2")


def test_what_is_counted_above_can_be_found():
  """With windows outside of layers, weights move in every window."""
  keys = keys_of("melodi") | {"melodi_schedule": "windows"}
  assert Reading(alone("melodi").params, **keys, **MESHES["fsdp8"]).in_windows()


@pytest.mark.parametrize("mesh, fits", [("fsdp8", True), ("fsdp4_tensor2", False)])
@pytest.mark.parametrize("model", ["melodi", "llama2"])
def test_a_kernel_reads_the_queue_where_no_axis_is_left_to_xla(mesh, fits, model, monkeypatch):
  for module in (paper_layer, stock_reader):
    monkeypatch.setattr(module, "are_many", lambda queries, slots: True)
  keys = keys_of(model) | {"dtype": "bfloat16", "dropout_rate": 0.0}
  step, _ = traced(None, **keys, **MESHES[mesh])
  assert ("tpu_custom_call" in step.lower(lowering_platforms=("tpu",)).as_text()) == fits
