"""`opt_type: adafactor` and the paper's learning rate through MaxText's trainer."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running
from integration_tests.saved_runs import LENGTHS

STEPS = 4
# Wide enough that matrices are factored.
PAPER = {
  "opt_type": "adafactor",
  "melodi_learning_rate_schedule": "paper",
  "learning_rate": 0.01,
  "learning_rate_final_fraction": 0.1,
  "learning_rate_schedule_steps": 10,
  "warmup_steps_fraction": 0.2,
  "gradient_clipping_threshold": 0,
  "base_emb_dim": 128,
  "head_dim": 64,
  "base_mlp_dim": 192,
  "max_target_length": 32,
}
ONE = {"ici_fsdp_parallelism": 1}
SPREAD = {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}
BLOCKS = {
  "melodi": running.MELODI
  | {"base_num_decoder_layers": 2, "melodi_long_term_layers": "0,1"},  # of one kind
  "llama2": {"decoder_block": "llama2", "dataset_type": "synthetic"},
  "around_llama2": running.MELODI | {"decoder_block": "llama2", "melodi_base_block": "llama2"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return running.documents_config(tmp_path_factory.mktemp("data"), LENGTHS)


@pytest.fixture
def registered():
  with running.maxtext_process():
    yield


def trainer_on(devices, **keys) -> running.Trainer:
  return running.Trainer(running.initialize(**(PAPER | keys)), devices)


class Run(NamedTuple):
  """A trainer after STEPS steps."""

  trainer: running.Trainer
  start: dict[str, np.ndarray]  # its parameters before the first
  losses: list[float]


def train(trainer: running.Trainer) -> Run:
  start = {path: np.asarray(leaf) for path, leaf in trainer.params().items()}  # steps donate
  return Run(trainer, start, [trainer.step()["learning/loss"] for _ in range(STEPS)])


@pytest.fixture(scope="module")
def run(data):
  """(block, param_scan_axis, whether on eight devices, else on one) -> a run, made once."""

  @functools.cache
  def trained(block: str, axis: int, spread: bool) -> Run:
    keys = data | BLOCKS[block] | (SPREAD if spread else ONE) | {"param_scan_axis": axis}
    with running.maxtext_process():
      return train(trainer_on(None if spread else jax.devices()[:1], **keys))

  return trained


# -- Scanned layers --------------------------------------------------------------------------------


def single_layers(params: dict[str, jax.Array], axis: int) -> dict[str, jax.Array]:
  """Parameters by path, with stacks of layers cut into single layers."""
  found = {}
  for path, leaf in params.items():
    run = re.fullmatch(r"(decoder/(?:memory_)?layers)(?:_(\d+)_to_\d+)?(/.*)", path)
    if not run:
      found[path] = leaf
      continue
    stem, first, rest = run.groups()
    for index, layer in enumerate(jnp.moveaxis(leaf, axis, 0), start=int(first or 0)):
      found[f"{stem}_{index}{rest}"] = layer
  return found


def put(trainer: running.Trainer, params: dict[str, jax.Array]) -> None:
  """Copies parameters of single layers into a trainer that has single layers."""
  for path, variable in nnx.to_flat_state(trainer.state["model"].filter(nnx.Param)):
    variable[...] = jnp.asarray(params["/".join(map(str, path))])


@pytest.mark.parametrize(
  "block, axis",
  [
    pytest.param("melodi", 1, marks=pytest.mark.broad),  # of one update in adafactor_test
    pytest.param("melodi", 0, marks=pytest.mark.slow),
    pytest.param("llama2", 1, marks=pytest.mark.slow),
    pytest.param("around_llama2", 1, marks=pytest.mark.slow),
  ],
)
def test_scanned_layers_train_as_single_ones(data, run, registered, block, axis):
  scanned = run(block, axis, False)
  keys = data | BLOCKS[block] | ONE | {"param_scan_axis": axis, "scan_layers": False}
  trainer = trainer_on(jax.devices()[:1], **keys)
  put(trainer, single_layers(scanned.start, axis))
  single = train(trainer)
  np.testing.assert_allclose(single.losses, scanned.losses, rtol=1e-5)
  expected, start = single.trainer.params(), single.start
  found = single_layers(scanned.trainer.params(), axis)
  assert found.keys() == expected.keys()
  for path, value in expected.items():
    np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=2e-6, err_msg=path)
  unmoved = {path for path, value in expected.items() if (np.asarray(value) == start[path]).all()}
  assert all("summary_mixer" in path for path in unmoved)  # the last layer's, which nothing reads


# -- Eight devices ---------------------------------------------------------------------------------


def moments(trainer: running.Trainer) -> dict[str, jax.Array]:
  """The optimizer's state, by path."""
  flat = nnx.to_flat_state(trainer.state["optimizer"]["opt_state"])
  return {"/".join(map(str, path)): leaf[...] for path, leaf in flat}


@pytest.mark.slow  # by default with MaxText's optimizer, in sharding_test
def test_eight_devices_train_as_one(run):
  alone, spread = run("melodi", 1, False), run("melodi", 1, True)
  np.testing.assert_allclose(spread.losses, alone.losses, rtol=1e-5)
  found = spread.trainer.params() | moments(spread.trainer)
  for path, value in (alone.trainer.params() | moments(alone.trainer)).items():
    np.testing.assert_allclose(found[path], value, rtol=1e-3, atol=2e-5, err_msg=path)


def test_moments_are_sharded_as_their_parameters(data, registered):
  trainer = trainer_on(None, **data | BLOCKS["melodi"] | SPREAD | {"param_scan_axis": 1})
  shards = {path: leaf.sharding.shard_shape(leaf.shape) for path, leaf in moments(trainer).items()}
  stack = "decoder/layers_0_to_1"
  assert shards["4/ema/" + stack + "/query"] == (128 // 4, 2, 128 // 2)
  # The query (D, N * H) over fsdp and tensor: a row for every D, a column for every N * H.
  rows, columns = shards[f"0/v_row/{stack}/query"], shards[f"0/v_col/{stack}/query"]
  assert {rows, columns} == {(128 // 4, 2), (128 // 2, 2)}
  # The larger dimension is averaged over in a row, whichever it is.
  assert shards[f"0/v_row/{stack}/ffn_in"] == shards[f"0/v_row/{stack}/ffn_out"] == (128 // 4, 2)
  assert shards[f"0/v_col/{stack}/ffn_in"] == shards[f"0/v_col/{stack}/ffn_out"] == (192 // 2, 2)
  assert shards[f"0/v/{stack}/query"] == (1, 2)  # takes the place of a moment that is not used
  assert shards[f"0/v/{stack}/ffn_in_bias"] == (192 // 2, 2)
  assert shards["0/count"] == ()


@pytest.mark.slow
def test_resumed_training_is_bit_identical(tmp_path, data):
  keys = running.TINY | running.MELODI | PAPER | SPREAD | data
  keys |= {"base_num_decoder_layers": 1, "melodi_long_term_layers": "0"}
  keys |= {"enable_checkpointing": True, "checkpoint_period": 100}
  config = running.write_yaml(
    tmp_path / "config.yml", **(keys | {"base_output_directory": str(tmp_path)})
  )
  for run_name, steps in (("through", STEPS), ("resumed", 2), ("resumed", STEPS)):
    running.train(str(config), f"run_name={run_name}", f"steps={steps}")
  through, resumed = (
    running.checkpoint(tmp_path / name / "checkpoints" / str(STEPS - 1))
    for name in ("through", "resumed")
  )
  assert through.keys() == resumed.keys()
  assert any(name.startswith("opt_state/0/v_row/") and through[name].any() for name in through)
  for name, array in through.items():
    np.testing.assert_array_equal(array, resumed[name], err_msg=name)


# -- Keys ------------------------------------------------------------------------------------------


def first_update(**keys) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
  """Initial parameters, and what an update of MaxText's optimizer adds to them; by path."""
  from maxtext.utils import maxtext_utils, model_creation_utils, train_utils

  config = running.initialize(
    **(PAPER | {"warmup_steps_fraction": 0} | keys | {"melodi_long_term_layers": "all"})
  )
  mesh = maxtext_utils.get_mesh_from_config(config, jax.devices()[:1])
  model = model_creation_utils.from_config(
    config, devices=jax.devices()[:1], mesh=mesh, rngs=nnx.Rngs(0)
  )
  _, optimizer = train_utils.create_training_optimizer(config, model, mesh)
  params = nnx.state(model, nnx.Param)
  state, params = nnx.as_pure(optimizer.init(params)), nnx.as_pure(params)
  updates, _ = jax.jit(optimizer.update)(jax.tree.map(gradient, params), state, params)
  before, after = (
    {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(tree)}
    for tree in (params, updates)
  )
  return before, after


def gradient(param: jax.Array) -> jax.Array:
  """A made-up one, nowhere 0, of full rank and with one great singular value."""
  return 1.5 + jnp.sin(jnp.arange(param.size, dtype=jnp.float32) ** 2).reshape(param.shape)


def one_update(**keys) -> dict[str, bool]:
  """Which parameters an update of MaxText's optimizer moves."""
  return {path: bool(leaf.any()) for path, leaf in first_update(**keys)[1].items()}


def test_scalars_have_a_learning_rate_of_their_own(registered):
  keys = BLOCKS["melodi"] | {"melodi_initial_temperature": 6, "melodi_long_term_temperature": 8}
  before, plain = first_update(**keys, opt_type="adamw", adam_weight_decay=0)
  after = first_update(
    **keys, opt_type="adamw", adam_weight_decay=0, melodi_scalar_learning_rate_multiplier=10
  )[1]
  for path, update in plain.items():
    factor = 10 if path.endswith(("/gate", "temperature")) else 1
    np.testing.assert_allclose(after[path], factor * update, rtol=1e-6, err_msg=path)
  starts = {path: set(np.ravel(leaf)) for path, leaf in before.items() if "temperature" in path}
  assert {6.0} in starts.values() and {8.0} in starts.values()
  assert all(start == {8.0 if "long_" in path else 6.0} for path, start in starts.items())


def test_weight_decay_is_for_matrices_and_the_vocabulary(registered):
  keys = BLOCKS["melodi"] | {"opt_type": "adamw"}
  before, with_decay = first_update(**keys, adam_weight_decay=1.0)
  without = first_update(**keys, adam_weight_decay=0.0)[1]
  decayed = {path for path, update in with_decay.items() if (update != without[path]).any()}
  layers = {path for path in before if "decoder/layers" in path}
  assert decayed - layers == {"token_embedder/embedding", "decoder/logits_dense/kernel"}
  assert {path.rsplit("/", 1)[-1] for path in decayed & layers} == set(MATRICES)


MATRICES = ("query", "key", "value", "out", "ffn_in", "ffn_out", "kernel")


@pytest.mark.parametrize(
  "block, scan_layers",
  [
    ("melodi", True),
    pytest.param("melodi", False, marks=pytest.mark.broad),
    pytest.param("around_llama2", True, marks=pytest.mark.broad),
    pytest.param("around_llama2", False, marks=pytest.mark.broad),
  ],
)
def test_muon_orthogonalizes_the_matrices_of_every_layer(registered, block, scan_layers):
  own = {"opt_type": "muon", "scan_layers": scan_layers, "adam_weight_decay": 0}
  _, updates = first_update(**BLOCKS[block], **own)
  found = set()
  for path, update in updates.items():
    ours = block == "melodi" or "memory_" in path
    layers = [update]
    if scan_layers and "layers" in path:
      layers = list(jnp.moveaxis(update, 1 if update.ndim > 1 else 0, 0))
    name = path.rsplit("/", 1)[-1]
    if not (ours and "layers" in path and name in MATRICES):
      # Adam's first step goes as far for every number.
      assert not ours or np.allclose(np.abs(update), np.abs(update).max(), rtol=1e-3), path
      continue
    found.add(name)
    for layer in layers:
      lengths = np.linalg.svd(np.asarray(layer), compute_uv=False)
      # The gradient is nearly of rank 1; five steps of Newton-Schulz bring most of its singular
      # values near 1, the smallest of a square matrix not.
      assert np.median(lengths) > 0.5 * lengths.max(), path
  assert found >= ({"kernel"} if block == "around_llama2" else set(MATRICES))


def test_multipliers_of_the_learning_rate_apply(registered):
  keys = {"melodi_memory_learning_rate_multiplier": 0.0}
  moved = one_update(**BLOCKS["around_llama2"], **keys)
  memory = {path for path in moved if "memory_" in path or "summary_embeddings" in path}
  gates = {path for path in memory if path.endswith(("/gate", "/offset"))}
  assert memory > gates > set()
  assert {path for path, moves in moved.items() if not moves} == memory - gates


def test_frozen_parameters_have_no_state_and_stay(registered):
  moved = one_update(**BLOCKS["around_llama2"], trainable_parameters_mask=["decoder/memory_"])
  trained = {path for path, moves in moved.items() if moves}
  assert trained == {path for path in moved if path.startswith("decoder/memory_")} != set()


def test_optimizer_needs_the_model(registered):
  from maxtext.optimizers import optimizers

  with pytest.raises(ValueError, match="opt_type=adafactor is for pre-training"):
    optimizers.get_optimizer(running.melodi_config(opt_type="adafactor"), 0.1)


@pytest.mark.parametrize("block", ["melodi", "llama2"])
def test_warm_up_of_the_paper_is_exactly_a_thousand_steps(registered, block):
  from maxtext.utils import maxtext_utils

  keys = {"learning_rate_schedule_steps": 500_000, "warmup_steps_fraction": 0.002}
  config = running.initialize(**(PAPER | BLOCKS[block] | keys))
  schedule = maxtext_utils.create_learning_rate_schedule(config)
  # Recorded from the official implementation.
  np.testing.assert_allclose(
    schedule(np.array([1, 999, 1000, 1001, 100_000])),
    [
      9.999910616897978e-06,
      0.009989910759031773,
      *[0.009999910369515419] * 2,
      0.009140576235949993,
    ],
    rtol=1e-6,
  )


def test_learning_rate_of_maxtext_is_the_default(registered):
  from maxtext.utils import maxtext_utils

  wrapped = maxtext_utils.create_learning_rate_schedule
  config = running.melodi_config(learning_rate=0.5, learning_rate_schedule_steps=10, steps=20)
  ours, original = wrapped(config), wrapped.__wrapped__(config)
  assert [float(ours(step)) for step in range(20)] == [float(original(step)) for step in range(20)]
