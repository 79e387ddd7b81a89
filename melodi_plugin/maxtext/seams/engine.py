"""What MaxText's engine loads, and what it returns of a step where JetStream is not installed."""

import functools
import sys
from typing import Any

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.maxtext.seams.seam import Undo, all_of, parameters, replace

_ENGINES = ("maxtext.inference.maxengine.maxengine", "maxtext.inference.decode")
_FIELDS = ("data", "tokens_idx", "valid_idx", "length_idx", "log_prob", "samples_per_slot")


def probe_results() -> str | None:
  from maxtext.common import gcloud_stub

  stub = gcloud_stub._jetstream_stubs()[1]
  if not getattr(stub, "_IS_STUB", False):
    return "does not mark what it gives as a stub"
  return parameters(stub.ResultTokens.__init__, "self", "args", *_FIELDS)


def apply_results() -> Undo:
  """JetStream is archived; MaxText's stand-in for its ResultTokens cannot leave a jitted call."""
  from maxtext.common import gcloud_stub

  original, undos = gcloud_stub._jetstream_stubs, []

  def complete(engine_api: Any) -> None:
    undos.append(replace(engine_api, "ResultTokens", _with_arrays(engine_api.ResultTokens)))

  def jetstream_stubs():
    stubs = original()
    complete(stubs[1])
    return stubs

  # Engines ask for the stubs when they are imported, which is later: that takes seconds.
  undos.append(replace(gcloud_stub, "_jetstream_stubs", jetstream_stubs))
  for name in _ENGINES:
    api = getattr(sys.modules.get(name), "engine_api", None)
    if getattr(api, "_IS_STUB", False):
      complete(api)
  return all_of(undos)


def _with_arrays(stub: type) -> type:
  """The stub as a tree of its two arrays."""
  import jax

  results = type(stub.__name__, (stub,), {"__module__": __name__})
  arrays = ("data", "log_prob")
  jax.tree_util.register_dataclass(
    results, data_fields=arrays, meta_fields=[name for name in _FIELDS if name not in arrays]
  )
  return results


def probe_parameters() -> str | None:
  from maxtext.utils import model_creation_utils

  return parameters(model_creation_utils.from_pretrained, "config", "mesh", "devices", "model_mode")


def apply_parameters() -> Undo:
  """MaxText repeats arrays until they fit, and deletes those that a checkpoint lacks."""
  from maxtext.common.common_types import MODEL_MODE_TRAIN
  from maxtext.utils import model_creation_utils

  original = model_creation_utils.from_pretrained

  @functools.wraps(original)
  def from_pretrained(config, mesh=None, devices=None, model_mode=MODEL_MODE_TRAIN, *args, **more):
    # Models for training are loaded by `loading.load`, which has checked.
    ours = config.load_parameters_path and is_melodi(config)
    if ours and model_mode != MODEL_MODE_TRAIN:
      from melodi_plugin.maxtext import weights

      weights.check_loads(config)
    model = original(config, mesh, devices, model_mode, *args, **more)
    if ours and config.melodi_adapter:
      _add_adapter(model, config.melodi_adapter)
    return model

  return replace(model_creation_utils, "from_pretrained", from_pretrained)


def _add_adapter(model: Any, path: str) -> None:
  """Memory's parameters, which the stock checkpoint lacks, from a file of their own."""
  import jax
  from flax import nnx

  from melodi_plugin.maxtext import weights
  from melodi_plugin.training.parameter_paths import name_of

  params = nnx.state(model, nnx.Param)
  arrays = weights.adapter_arrays(path, params)
  for place, variable in nnx.to_flat_state(params):
    if (name := name_of(place)) in arrays:
      sharding = variable.get_value().sharding  # MaxText has deleted the array itself
      variable.set_value(jax.device_put(arrays[name], sharding))
  nnx.update(model, params)
