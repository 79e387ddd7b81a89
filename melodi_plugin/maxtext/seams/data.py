"""Our batches in MaxText's loop."""

import contextlib
import functools
import inspect
import time

from melodi_plugin.config.systems import reads_in_rows
from melodi_plugin.errors import user_errors
from melodi_plugin.maxtext.seams.seam import Undo, all_of, parameters, replace
from melodi_plugin.training.progress import INPUT_WAIT


def probe_iterators() -> str | None:
  from maxtext.input_pipeline import input_pipeline_interface as interface

  source = inspect.getsource(interface.create_data_iterator)
  for name in ("make_grain_train_iterator", "make_grain_eval_iterator"):
    # `create_data_iterator` must look them up when it is called.
    if name not in source:
      return f"create_data_iterator does not use {name}"
    problem = parameters(getattr(interface, name), "config", "global_mesh", "process_indices")
    if problem:
      return f"{name} {problem}"
  return None


def apply_iterators() -> Undo:
  from maxtext.input_pipeline import input_pipeline_interface as interface

  def by_block(original, name):
    @functools.wraps(original)
    def make_iterator(config, global_mesh, process_indices):
      from melodi_plugin.maxtext import pipeline

      make = getattr(pipeline, name) if reads_in_rows(config) else original
      with user_errors(ValueError, OSError):
        return make(config, global_mesh, process_indices)

    return make_iterator

  undos = [
    replace(interface, f"make_grain_{kind}_iterator", by_block(original, f"make_{kind}_iterator"))
    for kind, original in (
      ("train", interface.make_grain_train_iterator),
      ("eval", interface.make_grain_eval_iterator),
    )
  ]
  return all_of(undos)


def probe_guard() -> str | None:
  from maxtext.common import data_loader

  return parameters(data_loader.loader_exception_guard, "config")


def apply_guard() -> Undo:
  """MaxText takes an error while loading for the end of the data and exits with success."""
  from maxtext.common import data_loader
  from maxtext.utils import exceptions

  original = data_loader.loader_exception_guard

  @contextlib.contextmanager
  def guard(config):
    began = time.monotonic()
    try:
      with original(config):
        yield
      INPUT_WAIT.add(time.monotonic() - began)
    except exceptions.StopTraining as stop:
      cause = stop.__context__
      if cause is None or isinstance(cause, StopIteration) or not reads_in_rows(config):
        raise
      raise cause from None

  return replace(data_loader, "loader_exception_guard", guard)
