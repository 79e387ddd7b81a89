"""register() and unregister(): nothing at import, all or nothing, twice is harmless, no trace."""

import enum
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import melodi_plugin
from integration_tests import running
from melodi_plugin.config import systems
from melodi_plugin.maxtext import registration
from melodi_plugin.maxtext.registration import UnsupportedMaxText, register, unregister
from melodi_plugin.maxtext.seams import table

SEAM_NAMES = [seam.name for seam in table.SEAMS]
CHANGED = {
  ("maxtext.configs.pyconfig", "_initialize_pydantic"),
  ("maxtext.configs.pyconfig", "_load_config"),
  ("maxtext.models.models", "NNXDecoder"),
  ("maxtext.input_pipeline.input_pipeline_interface", "make_grain_train_iterator"),
  ("maxtext.input_pipeline.input_pipeline_interface", "make_grain_eval_iterator"),
  ("maxtext.common.data_loader", "loader_exception_guard"),
  ("maxtext.common.checkpointing", "load_state_if_possible"),
  ("maxtext.common.checkpointing", "load_params_from_path"),
  ("maxtext.common.gcloud_stub", "_jetstream_stubs"),
  ("maxtext.optimizers.optimizers", "get_optimizer"),
  ("maxtext.optimizers.optimizers", "get_muon_weight_dimension_numbers"),
  ("maxtext.utils.maxtext_utils", "create_learning_rate_schedule"),
  ("maxtext.utils.maxtext_utils", "calculate_tflops_training_per_device"),
  ("maxtext.utils.model_creation_utils", "from_pretrained"),
  ("maxtext.trainers.pre_train.train", "loss_fn"),
  ("maxtext.trainers.pre_train.train", "train_step"),
  ("maxtext.trainers.pre_train.train", "gradient_accumulation_loss_and_grad"),
  ("maxtext.utils.train_utils", "jit_eval_step"),
  ("MetricLogger", "record_train_metrics"),
  ("MetricLogger", "write_metrics_locally"),
  ("AttentionOp", "generate_attention_mask"),
  ("Qwen3NextGatedDeltaNet", "__call__"),
  ("DecoderBlockType", "MELODI"),
  ("DecoderBlockType", "TRANSFORMER_XL"),
  ("DecoderBlockType", "MEMORIZING_TRANSFORMER"),
  ("DecoderBlockType", "BLOCK_RECURRENT"),
  ("DecoderBlockType", "_member_names_"),
  ("DecoderBlockType", "_member_map_"),
  ("DecoderBlockType", "_value2member_map_"),
  ("OptimizerType", "ADAFACTOR"),
  ("OptimizerType", "_member_names_"),
  ("OptimizerType", "_member_map_"),
  ("OptimizerType", "_value2member_map_"),
}


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
  """Stock MaxText, everything imported that the trainer imports, and no system of a user."""
  for name in list(systems.USERS):
    monkeypatch.delitem(systems.USERS, name)
  with running.maxtext_process(registered=False):
    import maxtext.inference.maxengine.maxengine
    import maxtext.trainers.pre_train.train  # noqa: F401

    yield
    unregister()


def snapshot() -> dict[tuple[str, str], Any]:
  """Every attribute of every module and class of MaxText; contents of the tables of enums."""
  found = {}
  for name, module in list(sys.modules.items()):
    if name.partition(".")[0] != "maxtext" or module is None:
      continue
    for attribute, value in list(vars(module).items()):
      found[name, attribute] = value
      if inspect.isclass(value) and value.__module__ == name:
        for inner, member in list(vars(value).items()):
          table = issubclass(value, enum.Enum) and isinstance(member, list | dict)
          found[value.__name__, inner] = member.copy() if table else member
  return found


def differences(before: dict, after: dict) -> set[tuple[str, str]]:
  """Attributes that are other objects, new, or gone."""

  def same(key) -> bool:
    if key not in before or key not in after:
      return False
    old, new = before[key], after[key]
    return old == new if isinstance(old, list | dict) else old is new

  return {key for key in before.keys() | after.keys() if not same(key)}


def settled_snapshot() -> dict[tuple[str, str], Any]:
  """A snapshot once imports of MaxText that probing does have been done."""
  for seam in table.SEAMS:
    seam.probe()
  return snapshot()


# -- Nothing by itself -----------------------------------------------------------------------------


def test_importing_the_plugin_imports_neither_maxtext_nor_jax():
  script = (
    "import sys, melodi_plugin\n"
    "found = {name.partition('.')[0] for name in sys.modules}\n"
    "heavy = found & {'maxtext', 'jax', 'flax', 'orbax', 'grain'}\n"
    "assert not heavy, heavy"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=running.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_registering_changes_exactly_these_attributes_and_unregistering_restores_them():
  before = settled_snapshot()
  register()
  during = snapshot()
  assert differences(before, during) == CHANGED
  unregister()
  assert not differences(before, snapshot())


def test_unregistered_maxtext_holds_no_code_of_the_plugin():
  register()
  unregister()
  ours = os.path.dirname(melodi_plugin.__file__)  # not the name: a clone may be called so too
  functions = {key: value for key, value in snapshot().items() if inspect.isfunction(value)}
  assert ("maxtext.configs.pyconfig", "_load_config") in functions
  for key, function in functions.items():
    assert not function.__code__.co_filename.startswith(ours), key


def test_registering_twice_is_registering_once():
  before = settled_snapshot()
  register()
  once = snapshot()
  register()
  assert not differences(once, snapshot())
  unregister()
  assert not differences(before, snapshot())


def test_unregistering_twice_or_first_is_harmless():
  before = settled_snapshot()
  unregister()
  register()
  unregister()
  unregister()
  assert not differences(before, snapshot())


def test_block_exists_only_while_registered():
  with pytest.raises(ValueError, match="melodi"):
    running.initialize(decoder_block="melodi")
  for _ in range(2):
    register()
    assert running.melodi_config().decoder_block.value == "melodi"
    unregister()
  with pytest.raises(ValueError, match="melodi"):
    running.initialize(decoder_block="melodi")
  with pytest.raises(ValueError, match="'melodi_window_length' not in"):
    running.initialize(melodi_window_length=16)


def test_configs_after_registering_again_name_the_block_of_that_registration():
  from maxtext.common.common_types import DecoderBlockType

  for _ in range(2):
    register()
    assert running.melodi_config().decoder_block is DecoderBlockType.MELODI
    unregister()


def test_public_names_are_there():
  assert {"register", "unregister", "UnsupportedMaxText"} <= set(melodi_plugin.__all__)
  assert all(hasattr(melodi_plugin, name) for name in melodi_plugin.__all__)


# -- A MaxText that is not the one we know ---------------------------------------------------------


def test_another_version_is_refused_and_nothing_applied(monkeypatch):
  before = settled_snapshot()
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.6")
  with pytest.raises(UnsupportedMaxText) as error:
    register()
  assert str(error.value) == (
    "melodi_plugin works with maxtext==0.2.5, but 0.2.6 is installed; run "
    "`pip install maxtext==0.2.5`, or look for a newer melodi-plugin."
  )
  assert not differences(before, snapshot())


def gone(path: str, attribute: str) -> Callable[[pytest.MonkeyPatch], None]:
  """Deletes an attribute."""
  return lambda patch: patch.delattr(f"maxtext.{path}.{attribute}")


def other(path: str, attribute: str) -> Callable[[pytest.MonkeyPatch], None]:
  """Replaces a function by one of other parameters."""
  return lambda patch: patch.setattr(f"maxtext.{path}.{attribute}", lambda *, something: None)


def block_of_that_name(patch: pytest.MonkeyPatch) -> None:
  """MaxText has got a MELODI of its own."""

  class DecoderBlockType(enum.Enum):
    LLAMA2 = "llama2"
    MELODI = "melodi"

  patch.setattr("maxtext.common.common_types.DecoderBlockType", DecoderBlockType)


def wrapped_decoder(patch: pytest.MonkeyPatch) -> None:
  """Another plugin has replaced the decoder."""
  from maxtext.models import models

  patch.setattr(models, "NNXDecoder", type("Theirs", (models.NNXDecoder,), {}))


def closed_dispatch(patch: pytest.MonkeyPatch) -> None:
  """The iterators are no longer looked up by these names."""
  path = "maxtext.input_pipeline.input_pipeline_interface.create_data_iterator"
  patch.setattr(path, lambda config, mesh: None)


def optimizer_of_that_name(patch: pytest.MonkeyPatch) -> None:
  """MaxText has got an Adafactor of its own."""

  class OptimizerType(enum.StrEnum):
    ADAFACTOR = "adafactor"

  patch.setattr("maxtext.configs.types.OptimizerType", OptimizerType)


def other_optimizers(patch: pytest.MonkeyPatch) -> None:
  """The trainer takes its optimizer from another module."""
  patch.setattr("maxtext.utils.train_utils.optimizers", types.SimpleNamespace())


def other_schedules(patch: pytest.MonkeyPatch) -> None:
  """The trainer takes its learning rate from another module."""
  patch.setattr("maxtext.utils.train_utils.maxtext_utils", types.SimpleNamespace())


def other_flops(patch: pytest.MonkeyPatch) -> None:
  """The logger takes its operations per step from another module."""
  patch.setattr("maxtext.common.metric_logger.maxtext_utils", types.SimpleNamespace())


def other_microbatches(patch: pytest.MonkeyPatch) -> None:
  """A microbatch has other rows."""

  def accumulate(_loss_fn, config, model, params, params_shardings, data, dropout_rng):
    pass

  name = "gradient_accumulation_loss_and_grad"
  patch.setattr(f"maxtext.trainers.pre_train.train.{name}", accumulate)


def other_stubs(fields: dict[str, Any]) -> Callable[[pytest.MonkeyPatch], None]:
  """What stands in for JetStream's API has other fields."""
  stubs = (None, types.SimpleNamespace(**fields), None, None, None)
  return lambda patch: patch.setattr("maxtext.common.gcloud_stub._jetstream_stubs", lambda: stubs)


def other_arrays(build: Any) -> Callable[[pytest.MonkeyPatch], None]:
  """Orbax describes arrays on the disk in another way."""
  module = "orbax.checkpoint._src.serialization.tensorstore_utils"

  def patch(patch: pytest.MonkeyPatch) -> None:
    if build is None:
      patch.delattr(f"{module}._build_zarr3_metadata")
    else:
      patch.setattr(f"{module}._build_zarr3_metadata", build)

  return patch


def in_one_piece(global_shape, chunk_shape, use_compression):
  """Metadata of an array without chunks inside of chunks."""
  return {"codecs": [{"name": "bytes"}]}


DECODER = "layers.nnx_decoders.NNXDecoder"
BROKEN = {
  "common.common_types.DecoderBlockType": [
    gone("common.common_types", "DecoderBlockType"),
    block_of_that_name,
  ],
  "configs.pyconfig._initialize_pydantic": [
    gone("configs.pyconfig", "_initialize_pydantic"),
    other("configs.pyconfig", "_initialize_pydantic"),
  ],
  "configs.pyconfig._load_config": [
    gone("configs.pyconfig", "_load_config"),
    other("configs.pyconfig", "_load_config"),
  ],
  "models.models.NNXDecoder": [
    gone("models.models", "NNXDecoder"),
    wrapped_decoder,
    other(DECODER, "__init__"),
    other(DECODER, "get_norm_layer"),
    other(DECODER, "get_remat_policy"),
    other(DECODER, "apply_output_head"),
    gone(DECODER, "_init_decoder_layers"),
    gone(DECODER, "_apply_embedding"),
  ],
  "input_pipeline.input_pipeline_interface.make_grain_*_iterator": [
    gone("input_pipeline.input_pipeline_interface", "create_data_iterator"),
    closed_dispatch,
    gone("input_pipeline.input_pipeline_interface", "make_grain_train_iterator"),
    other("input_pipeline.input_pipeline_interface", "make_grain_eval_iterator"),
  ],
  "common.data_loader.loader_exception_guard": [
    gone("common.data_loader", "loader_exception_guard"),
    other("common.data_loader", "loader_exception_guard"),
  ],
  "common.metric_logger.MetricLogger": [
    gone("common.metric_logger.MetricLogger", "record_train_metrics"),
    other("common.metric_logger.MetricLogger", "record_train_metrics"),
    gone("common.metric_logger.MetricLogger", "write_metrics_locally"),
    other("common.metric_logger.MetricLogger", "write_metrics_locally"),
    gone("common.metric_logger", "_prepare_metrics_for_json"),
  ],
  "common.checkpointing.load_state_if_possible": [
    gone("common.checkpointing", "load_state_if_possible"),
    other("common.checkpointing", "load_state_if_possible"),
    gone("common.checkpointing.train_state_nnx", "to_checkpoint_dict"),
  ],
  "common.checkpoint_context.build_context": [
    other_arrays(None),
    other_arrays(lambda: None),
    other_arrays(in_one_piece),
  ],
  "common.checkpointing.load_params_from_path": [
    gone("common.checkpointing", "load_params_from_path"),
    other("common.checkpointing", "load_params_from_path"),
  ],
  "common.gcloud_stub._jetstream_stubs": [
    gone("common.gcloud_stub", "_jetstream_stubs"),
    other("common.gcloud_stub", "_jetstream_stubs"),
    other_stubs({"ResultTokens": type}),
    other_stubs({"ResultTokens": type, "_IS_STUB": True}),
    other_stubs({"_IS_STUB": True}),
  ],
  "optimizers.optimizers.get_optimizer": [
    gone("optimizers.optimizers", "get_optimizer"),
    other("optimizers.optimizers", "get_optimizer"),
    other_optimizers,
    other("optimizers.optimizers", "skip_step_on_spikes"),
    gone("optimizers.optimizers", "_get_path_mask_fn"),
  ],
  "optimizers.optimizers.get_muon_weight_dimension_numbers": [
    gone("optimizers.optimizers", "get_muon_weight_dimension_numbers"),
    other("optimizers.optimizers", "get_muon_weight_dimension_numbers"),
    other("utils.muon_utils", "get_muon_weight_dimension_numbers"),
  ],
  "layers.attention_op.AttentionOp": [
    gone("layers.attention_op.AttentionOp", "generate_attention_mask"),
    other("layers.attention_op.AttentionOp", "generate_attention_mask"),
  ],
  "models.qwen3.Qwen3NextGatedDeltaNet": [
    other("models.qwen3.Qwen3NextGatedDeltaNet", "__call__"),
  ],
  "configs.types.OptimizerType": [
    gone("configs.types", "OptimizerType"),
    optimizer_of_that_name,
  ],
  "utils.maxtext_utils.create_learning_rate_schedule": [
    gone("utils.maxtext_utils", "create_learning_rate_schedule"),
    other("utils.maxtext_utils", "create_learning_rate_schedule"),
    other_schedules,
  ],
  "utils.maxtext_utils.calculate_tflops_training_per_device": [
    gone("utils.maxtext_utils", "calculate_tflops_training_per_device"),
    other("utils.maxtext_utils", "calculate_tflops_training_per_device"),
    other_flops,
  ],
  "utils.model_creation_utils.from_pretrained": [
    gone("utils.model_creation_utils", "from_pretrained"),
    other("utils.model_creation_utils", "from_pretrained"),
  ],
  "trainers.pre_train.train.loss_fn": [
    gone("trainers.pre_train.train", "loss_fn"),
    other("trainers.pre_train.train", "loss_fn"),
  ],
  "trainers.pre_train.train.train_step": [
    gone("trainers.pre_train.train", "train_step"),
    other("trainers.pre_train.train", "train_step"),
  ],
  "trainers.pre_train.train.gradient_accumulation_loss_and_grad": [
    gone("trainers.pre_train.train", "gradient_accumulation_loss_and_grad"),
    other("trainers.pre_train.train", "gradient_accumulation_loss_and_grad"),
    other_microbatches,
  ],
  "utils.train_utils.jit_eval_step": [
    gone("utils.train_utils", "jit_eval_step"),
    other("utils.train_utils", "jit_eval_step"),
  ],
}


def test_every_seam_has_a_canary():
  assert sorted(BROKEN) == sorted(SEAM_NAMES)


@pytest.mark.parametrize(
  "name, damage",
  [
    pytest.param(name, damage, id=f"{name}-{index}")
    for name, damages in BROKEN.items()
    for index, damage in enumerate(damages)
  ],
)
def test_broken_seam_is_named_and_nothing_applied(monkeypatch, name, damage):
  damage(monkeypatch)
  before = snapshot()
  with pytest.raises(UnsupportedMaxText, match=re.escape(f"maxtext.{name} ")) as error:
    register()
  assert "\n" not in str(error.value)
  assert not differences(before, snapshot())


@pytest.mark.parametrize("attribute", ["_member_names_", "_member_map_", "_value2member_map_"])
def test_enum_without_the_tables_that_are_written_is_noticed(monkeypatch, attribute):
  # Only probed: registering would write into the table of `enum.Enum`, which every enum inherits.
  monkeypatch.delattr(f"maxtext.common.common_types.DecoderBlockType.{attribute}")
  assert table.SEAMS[0].probe() is not None


@pytest.mark.parametrize("failing", range(len(SEAM_NAMES)), ids=SEAM_NAMES)
def test_failure_in_the_middle_undoes_what_was_applied(monkeypatch, failing):
  def fail():
    raise OSError("no space left")

  before = settled_snapshot()
  seams = list(table.SEAMS)
  seams[failing] = seams[failing]._replace(apply=fail)
  with monkeypatch.context() as patch:
    patch.setattr(registration, "SEAMS", tuple(seams))
    with pytest.raises(OSError, match="no space left"):
      register()
  assert not differences(before, snapshot())
  register()  # and nothing is left that would be in the way
  assert differences(before, snapshot()) == CHANGED


# -- Where JetStream is absent ---------------------------------------------------------------------


def new_results() -> Any:
  """What MaxText's engine makes of a step, as it leaves a compiled function."""
  from maxtext.inference.maxengine import maxengine

  return jax.jit(
    lambda: maxengine.engine_api.ResultTokens(
      data=jnp.ones((1, 3)),
      tokens_idx=(0, 1),
      valid_idx=(1, 2),
      length_idx=(2, 3),
      log_prob=jnp.zeros((1, 1)),
      samples_per_slot=1,
    )
  )()


def test_results_of_a_step_leave_a_compiled_function_only_while_registered():
  from maxtext.common import gcloud_stub
  from maxtext.inference.maxengine import maxengine

  stub = maxengine.engine_api.ResultTokens
  register()
  found = new_results()
  assert isinstance(found, stub)
  assert found.data.shape == (1, 3) and found.log_prob.shape == (1, 1)
  assert (found.tokens_idx, found.samples_per_slot) == ((0, 1), 1)
  later = gcloud_stub.jetstream()[1]  # an engine that is imported later
  assert jax.tree.leaves(later.ResultTokens(data=1, log_prob=2)) == [1, 2]
  unregister()
  assert maxengine.engine_api.ResultTokens is stub
  assert len(jax.tree.leaves(later.ResultTokens(data=1, log_prob=2))) == 1
  with pytest.raises(TypeError, match="ResultTokens"):
    new_results()


def test_jetstream_is_left_alone(monkeypatch):
  from maxtext.inference.maxengine import maxengine

  real = types.SimpleNamespace(ResultTokens=type("ResultTokens", (), {}), _IS_STUB=False)
  monkeypatch.setattr(maxengine, "engine_api", real)
  before = dict(vars(real))
  register()
  assert vars(real) == before


# -- Stock MaxText next to the plugin --------------------------------------------------------------


def stock_logits():
  """The class of a llama2 decoder, and logits of the model."""
  from maxtext.utils import model_creation_utils

  config = running.initialize(decoder_block="llama2")
  model = model_creation_utils.from_config(config, devices=jax.devices()[:1], rngs=nnx.Rngs(0))
  tokens = jnp.arange(8 * 64, dtype=jnp.int32).reshape(8, 64) % 64
  positions = jnp.broadcast_to(jnp.arange(64, dtype=jnp.int32), (8, 64))
  logits = model(tokens, positions, jnp.ones_like(tokens), enable_dropout=False)
  return type(model.decoder), np.asarray(logits)


def test_stock_model_is_the_same_with_the_plugin():
  plain_class, plain = stock_logits()
  register()
  ours_class, ours = stock_logits()
  assert ours_class is plain_class
  assert np.isfinite(ours).all() and ours.std() > 0
  np.testing.assert_array_equal(ours, plain)


def test_stock_config_is_the_same_with_the_plugin_but_for_our_keys():
  keys = {"decoder_block": "llama2", "base_output_directory": "relative"}
  plain = running.initialize(**keys).get_keys()
  register()
  ours = dict(running.initialize(**keys).get_keys())
  added = {key: ours.pop(key) for key in melodi_plugin.MelodiKeys.model_fields}
  assert added == melodi_plugin.MelodiKeys().model_dump()
  assert ours == plain


def test_unknown_key_is_still_refused_with_the_plugin():
  register()
  with pytest.raises(ValueError, match="'no_such_key' not in"):
    running.initialize(decoder_block="llama2", no_such_key=1)


@pytest.mark.parametrize("raised", [ValueError, OSError, RuntimeError, StopIteration])
def test_error_while_loading_ends_stock_training_as_before_but_melodi_training_with_failure(raised):
  from maxtext.common import data_loader
  from maxtext.utils.exceptions import StopTraining

  register()
  stock = running.initialize(decoder_block="llama2")
  with pytest.raises(StopTraining), data_loader.loader_exception_guard(stock):
    raise raised("while loading")
  # MaxText exits with success after StopTraining, which is right only at the end of the data.
  expected = StopTraining if raised is StopIteration else raised
  with pytest.raises(expected), data_loader.loader_exception_guard(running.melodi_config()):
    raise raised("while loading")
