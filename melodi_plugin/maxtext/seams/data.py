"""Our batches in MaxText's loop, from the first to the one after a resume."""

import contextlib
import functools
import inspect
import sys
import time
from typing import Any

from melodi_plugin.config.systems import is_counted, is_melodi, reads_in_rows
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


_RESTORE = (
  "checkpoint_manager",
  "data_iterator",
  "load_parameters_from_path",
  "load_full_state_from_path",
  "checkpoint_storage_concurrent_gb",
  "abstract_unboxed_pre_state",
)


def probe_restore() -> str | None:
  from maxtext.common import checkpointing

  found = inspect.signature(checkpointing.load_state_if_possible).parameters
  if "maxtext_config" not in found:
    return "takes no maxtext_config"
  if "to_checkpoint_dict" not in vars(checkpointing.train_state_nnx):
    return "does not build its target with train_state_nnx.to_checkpoint_dict"
  return parameters(checkpointing.load_state_if_possible, *_RESTORE)


def apply_restore() -> Undo:
  """MaxText restores a row's place only with as many processes, and memory only at its old size."""
  from maxtext.common import checkpointing

  original = checkpointing.load_state_if_possible

  @functools.wraps(original)
  def load(manager, data_iterator, path, full_path, gb, state, *args, maxtext_config=None, **more):
    keep, resumes, remembers = contextlib.nullcontext(), False, is_melodi(maxtext_config)
    if manager and reads_in_rows(maxtext_config):
      from melodi_plugin.maxtext import pipeline
      from melodi_plugin.maxtext.seams import restored_memory

      step = checkpointing.latest_step(manager)
      folder = manager.directory / str(step)
      resumes, goes_on = (folder / "items").exists(), True
      if isinstance(data_iterator, pipeline.EndTogether) and (folder / "iter").exists():
        goes_on = pipeline.restore_place(maxtext_config, data_iterator, folder / "iter")
        data_iterator = None  # done
      if resumes and remembers:
        queues = is_counted(maxtext_config)
        keep = restored_memory.of_checkpoint(folder / "items", goes_on=goes_on, queues=queues)
    warm = path and not resumes and remembers
    if warm:
      _check_fits(maxtext_config, checkpointing._abstract_params(state))
    with keep:
      restored, params = original(
        manager,
        data_iterator,
        path,
        full_path,
        gb,
        state,
        *args,
        maxtext_config=maxtext_config,
        **more,
      )
    if warm and params and (adapter := getattr(maxtext_config, "melodi_adapter", "")):
      params = _with_adapter(params, adapter)
    if resumes and remembers and restored:
      restored_memory.fit(restored["items"], maxtext_config)
    return restored, params

  return replace(checkpointing, "load_state_if_possible", load)


def _check_fits(config: Any, params: Any) -> None:
  """Refuses a checkpoint of another model; one of the stock model lacks memory's parameters."""
  from melodi_plugin.maxtext import weights

  path = config.load_parameters_path
  with user_errors(ValueError):
    if config.melodi_adapter:
      weights.check_loads(config)
      return
    if weights.has_memory(params) and weights.is_stock(path):
      params = weights.without_memory(params)
      print(
        f"warm start: {path} holds a stock model; summary tokens, mixers, gates and offsets start "
        "anew.",
        file=sys.stderr,  # standard output goes into the run's log
        flush=True,
      )
    weights.check_fits(path, weights.shapes_of(params))


def _with_adapter(params: Any, path: str) -> dict[str, Any]:
  """A stock checkpoint's parameters and what memory adds to them, as a tree of arrays."""
  from flax import nnx

  from melodi_plugin.maxtext import weights

  with user_errors(ValueError):
    added = weights.adapter_arrays(path, params)
  flat = nnx.traversals.flatten_mapping(params.to_pure_dict())
  flat |= {tuple(name.split("/")): array for name, array in added.items()}
  return nnx.traversals.unflatten_mapping(flat)
