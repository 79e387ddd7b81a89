"""Every MaxText internal that we touch, one seam each: probe, apply, undo.

`SEAMS` is the table.  A seam's `probe` returns what is wrong with it in this MaxText, or None;
`apply` changes it, and returns how to undo that.  Nothing here runs at import.
"""

import contextlib
import enum
import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pydantic

from melodi_plugin.config import MelodiConfig, MelodiKeys
from melodi_plugin.progress import Progress
from melodi_plugin.refusals import check

VERSION = "0.2.5"
BLOCK = "melodi"

Undo = Callable[[], None]


class Seam(NamedTuple):
  """One place of MaxText."""

  name: str
  probe: Callable[[], str | None]
  apply: Callable[[], Undo]


def is_melodi(config: Any) -> bool:
  """Whether a MaxText config asks for a MELODI decoder."""
  block = getattr(config, "decoder_block", None)
  return getattr(block, "value", block) == BLOCK


def _replace(owner: Any, name: str, new: Any) -> Undo:
  old = getattr(owner, name)
  setattr(owner, name, new)
  return lambda: setattr(owner, name, old)


def _parameters(function: Any, *expected: str) -> str | None:
  """What differs if `function` does not begin with the expected parameters."""
  found = tuple(inspect.signature(function).parameters)
  return None if found[: len(expected)] == expected else f"takes {found}, not {expected}"


# -- The name of the block -------------------------------------------------------------------------


def _block_enum() -> type[enum.Enum]:
  from maxtext.common import common_types

  return common_types.DecoderBlockType


def _probe_block() -> str | None:
  members = _block_enum()
  for table in ("_member_names_", "_member_map_", "_value2member_map_"):
    if table not in vars(members):
      return f"has no {table}"
  if BLOCK in vars(members)["_value2member_map_"]:
    return f"already has a member {BLOCK!r}"
  return None


def _apply_block() -> Undo:
  members = _block_enum()
  member = object.__new__(members)
  member._name_, member._value_ = BLOCK.upper(), BLOCK
  member.__objclass__, member._sort_order_ = members, len(members)
  members._member_names_.append(member._name_)
  members._member_map_[member._name_] = member
  members._value2member_map_[BLOCK] = member
  type.__setattr__(members, member._name_, member)

  def undo() -> None:
    members._member_names_.remove(member._name_)
    del members._member_map_[member._name_], members._value2member_map_[BLOCK]
    type.__delattr__(members, member._name_)

  return undo


# -- Config keys -----------------------------------------------------------------------------------


def _probe_initialize() -> str | None:
  from maxtext.configs import pyconfig

  return _parameters(pyconfig._initialize_pydantic, "argv", "config_class", "kwargs")


def _absolute_output(values: dict[str, Any]) -> dict[str, Any]:
  """Orbax refuses a relative folder, but only when the first checkpoint is due."""
  folder = values.get("base_output_directory")
  if folder and "://" not in folder and values.get("decoder_block") == BLOCK:
    return {**values, "base_output_directory": os.path.abspath(folder)}
  return values


@functools.cache
def with_melodi_keys(base: type) -> type:
  """MaxText's config class with our keys."""
  validator = pydantic.model_validator(mode="before")(_absolute_output)
  body = {"__module__": __name__, "absolute_output": validator}
  return type(f"Melodi{base.__name__}", (MelodiKeys, base), body)


def _apply_initialize() -> Undo:
  from maxtext.configs import pyconfig, types

  original = pyconfig._initialize_pydantic

  @functools.wraps(original)
  def initialize(argv=None, config_class=types.MaxTextConfig, **kwargs):
    config = original(argv, config_class=with_melodi_keys(config_class), **kwargs)
    if is_melodi(config):
      check(config)
      MelodiConfig.from_maxtext(config)  # raises where the sizes contradict each other
    return config

  undo_replace = _replace(pyconfig, "_initialize_pydantic", initialize)

  def undo() -> None:
    with_melodi_keys.cache_clear()  # its classes know this registration's enum member
    undo_replace()

  return undo


def _probe_load() -> str | None:
  from maxtext.configs import pyconfig

  return _parameters(pyconfig._load_config, "config_name")


def _apply_load() -> Undo:
  """Defaults of our keys, as base.yml has those of MaxText's: so environment variables see them."""
  import omegaconf
  from maxtext.configs import pyconfig

  original = pyconfig._load_config
  defaults = MelodiKeys.model_validate({}).model_dump()

  @functools.wraps(original)
  def load(config_name):
    return omegaconf.OmegaConf.merge(defaults, original(config_name))

  return _replace(pyconfig, "_load_config", load)


# -- The decoder -----------------------------------------------------------------------------------


def _probe_decoder() -> str | None:
  from maxtext.layers import nnx_decoders
  from maxtext.models import models

  if models.NNXDecoder is not nnx_decoders.NNXDecoder:
    return "is not layers.nnx_decoders.NNXDecoder"
  decoder = nnx_decoders.NNXDecoder
  return (
    _parameters(decoder.__init__, "self", "config", "mesh", "quant", "model_mode", "rngs")
    or _parameters(decoder._init_decoder_layers, "self", "decoder_block_classes", "rngs", "mesh")
    or _parameters(decoder.get_norm_layer, "self", "num_features", "rngs")
    or _parameters(decoder.get_remat_policy, "self")
    or _parameters(
      decoder._apply_embedding,
      "self",
      "shared_embedding",
      "decoder_input_tokens",
      "decoder_positions",
      "deterministic",
      "model_mode",
    )
    or _parameters(
      decoder.apply_output_head, "self", "shared_embedding", "y", "deterministic", "model_mode"
    )
  )


def _apply_decoder() -> Undo:
  from maxtext.models import models

  original = models.NNXDecoder

  def make_decoder(config, *args, **kwargs):
    if not is_melodi(config):
      return original(config, *args, **kwargs)
    from melodi_plugin.decoder import MelodiDecoder

    return MelodiDecoder(config, *args, **kwargs)

  return _replace(models, "NNXDecoder", make_decoder)


# -- Data ------------------------------------------------------------------------------------------


def _probe_iterators() -> str | None:
  from maxtext.input_pipeline import input_pipeline_interface as interface

  source = inspect.getsource(interface.create_data_iterator)
  for name in ("make_grain_train_iterator", "make_grain_eval_iterator"):
    # `create_data_iterator` must look them up when it is called.
    if name not in source:
      return f"create_data_iterator does not use {name}"
    problem = _parameters(getattr(interface, name), "config", "global_mesh", "process_indices")
    if problem:
      return f"{name} {problem}"
  return None


def _apply_iterators() -> Undo:
  from maxtext.input_pipeline import input_pipeline_interface as interface

  def by_block(original, name):
    @functools.wraps(original)
    def make_iterator(config, global_mesh, process_indices):
      if not is_melodi(config):
        return original(config, global_mesh, process_indices)
      from melodi_plugin.data import pipeline

      return getattr(pipeline, name)(config, global_mesh, process_indices)

    return make_iterator

  undos = [
    _replace(interface, f"make_grain_{kind}_iterator", by_block(original, f"make_{kind}_iterator"))
    for kind, original in (
      ("train", interface.make_grain_train_iterator),
      ("eval", interface.make_grain_eval_iterator),
    )
  ]

  def undo_all() -> None:
    for undo in undos:
      undo()

  return undo_all


def _probe_guard() -> str | None:
  from maxtext.common import data_loader

  return _parameters(data_loader.loader_exception_guard, "config")


def _apply_guard() -> Undo:
  """MaxText takes an error while loading for the end of the data and exits with success."""
  from maxtext.common import data_loader
  from maxtext.utils import exceptions

  original = data_loader.loader_exception_guard

  @contextlib.contextmanager
  def guard(config):
    try:
      with original(config):
        yield
    except exceptions.StopTraining as stop:
      cause = stop.__context__
      if cause is None or isinstance(cause, StopIteration) or not is_melodi(config):
        raise
      raise cause from None

  return _replace(data_loader, "loader_exception_guard", guard)


# -- Progress --------------------------------------------------------------------------------------


def _probe_progress() -> str | None:
  from maxtext.common.metric_logger import MetricLogger

  return _parameters(MetricLogger._log_training_metrics, "self", "metrics", "step")


def _apply_progress() -> Undo:
  """A line with tokens/s and ETA after MaxText's own line of a step."""
  from maxtext.common.metric_logger import MetricLogger

  original = MetricLogger._log_training_metrics

  @functools.wraps(original)
  def log(self, metrics, step):
    original(self, metrics, step)
    if is_melodi(self.config):
      if not hasattr(self, "melodi_progress"):
        self.melodi_progress = Progress(self.config.steps)
      self.melodi_progress.step_done(step, metrics["scalar"])

  return _replace(MetricLogger, "_log_training_metrics", log)


SEAMS = (
  Seam("common.common_types.DecoderBlockType", _probe_block, _apply_block),
  Seam("configs.pyconfig._initialize_pydantic", _probe_initialize, _apply_initialize),
  Seam("configs.pyconfig._load_config", _probe_load, _apply_load),
  Seam("models.models.NNXDecoder", _probe_decoder, _apply_decoder),
  Seam(
    "input_pipeline.input_pipeline_interface.make_grain_*_iterator",
    _probe_iterators,
    _apply_iterators,
  ),
  Seam("common.data_loader.loader_exception_guard", _probe_guard, _apply_guard),
  Seam("common.metric_logger.MetricLogger._log_training_metrics", _probe_progress, _apply_progress),
)
