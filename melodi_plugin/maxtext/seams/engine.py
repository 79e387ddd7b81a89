"""What MaxText's engine returns of a step, where JetStream is not installed."""

import sys
from typing import Any

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
