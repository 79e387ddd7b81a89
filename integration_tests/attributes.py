"""What modules and classes of MaxText hold, and what register() changes of it."""

import contextlib
import enum
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from integration_tests import running
from melodi_plugin.config import systems
from melodi_plugin.maxtext.registration import unregister
from melodi_plugin.maxtext.seams import table

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


@contextlib.contextmanager
def stock_maxtext(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
