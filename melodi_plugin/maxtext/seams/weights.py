"""Stock weights in a model with memory."""

import functools

from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace


def probe_load_params() -> str | None:
  from maxtext.common import checkpointing

  return parameters(
    checkpointing.load_params_from_path, "load_parameters_from_path", "abstract_unboxed_params"
  )


def apply_load_params() -> Undo:
  """A stock checkpoint lacks memory's parameters: they start anew, or are an adapter's."""
  from maxtext.common import checkpointing

  original = checkpointing.load_params_from_path

  @functools.wraps(original)
  def load(load_parameters_from_path, abstract_unboxed_params, *args, **kwargs):
    from melodi_plugin.maxtext import weights

    wanted = abstract_unboxed_params
    if weights.has_memory(wanted) and weights.is_stock(load_parameters_from_path):
      wanted = weights.without_memory(wanted)
    return original(load_parameters_from_path, wanted, *args, **kwargs)

  return replace(checkpointing, "load_params_from_path", load)
