"""Stock weights in a model with memory."""

import functools
import sys

from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace


def probe_load_params() -> str | None:
  from maxtext.common import checkpointing

  return parameters(
    checkpointing.load_params_from_path, "load_parameters_from_path", "abstract_unboxed_params"
  )


def apply_load_params() -> Undo:
  """A stock checkpoint lacks memory's parameters, which then keep their initial values."""
  from maxtext.common import checkpointing

  original = checkpointing.load_params_from_path

  @functools.wraps(original)
  def load(load_parameters_from_path, abstract_unboxed_params, *args, **kwargs):
    from melodi_plugin.maxtext import weights

    wanted = abstract_unboxed_params
    if weights.has_memory(wanted) and weights.is_stock(load_parameters_from_path):
      wanted = weights.without_memory(wanted)
      print(
        f"warm start: {load_parameters_from_path} holds a stock model; summary tokens, mixers, "
        "gates and offsets start anew.",
        file=sys.stderr,  # standard output goes into the run's log
        flush=True,
      )
    return original(load_parameters_from_path, wanted, *args, **kwargs)

  return replace(checkpointing, "load_params_from_path", load)
