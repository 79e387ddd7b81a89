"""A MaxText that is not the one we know: the seam that does not fit is named, nothing applied."""

import enum
import importlib.metadata
import re
import types
from collections.abc import Callable
from typing import Any

import pytest

from integration_tests.attributes import (
  CHANGED,
  differences,
  settled_snapshot,
  snapshot,
  stock_maxtext,
)
from melodi_plugin.maxtext import registration
from melodi_plugin.maxtext.registration import UnsupportedMaxText, register
from melodi_plugin.maxtext.seams import table

SEAM_NAMES = [seam.name for seam in table.SEAMS]


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
  with stock_maxtext(monkeypatch):
    yield


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
