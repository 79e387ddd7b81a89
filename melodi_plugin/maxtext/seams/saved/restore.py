"""A run goes on from its newest whole checkpoint, with its memory, where it was in documents."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from melodi_plugin.config.systems import is_counted, is_melodi, reads_in_rows
from melodi_plugin.errors import UserError, is_of_the_moment, user_errors
from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace
from melodi_plugin.restoring import ending_reads, reading_arrays

_RESTORE = (
  "checkpoint_manager",
  "data_iterator",
  "load_parameters_from_path",
  "load_full_state_from_path",
  "checkpoint_storage_concurrent_gb",
  "abstract_unboxed_pre_state",
)


class _Broken(Exception):  # noqa: N818, it is the checkpoint that is broken
  """A checkpoint that cannot be read; says why."""


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
    def restore(iterator: Any) -> Any:
      words = (manager, iterator, path, full_path, gb, state, *args)
      return original(*words, maxtext_config=maxtext_config, **more)

    if manager and reads_in_rows(maxtext_config):
      while (step := checkpointing.latest_step(manager)) is not None:
        try:
          folder = manager.directory / str(step)
          return _resume(restore, folder, data_iterator, maxtext_config, state)
        except _Broken as broken:
          _set_aside(manager, step, broken, maxtext_config)
    warm = path and is_melodi(maxtext_config)
    if warm:
      _check_fits(maxtext_config, checkpointing._abstract_params(state))
    goes_on = manager and checkpointing.latest_step(manager) is not None
    given = "" if goes_on else path or full_path  # as MaxText chooses
    with _arrays_of(given) if given else contextlib.nullcontext():
      restored, params = restore(data_iterator)
    if warm and params and (adapter := getattr(maxtext_config, "melodi_adapter", "")):
      params = _with_adapter(params, adapter)
    return restored, params

  return replace(checkpointing, "load_state_if_possible", load)


def _resume(restore: Any, folder: Any, data_iterator: Any, config: Any, like: Any) -> Any:
  """What MaxText restores of one checkpoint, into a state `like` this.

  Raises:
    _Broken: if it cannot be read.
  """
  from melodi_plugin.data.place import read_place
  from melodi_plugin.maxtext.pipeline import EndTogether
  from melodi_plugin.maxtext.seams.saved import restored_memory
  from melodi_plugin.maxtext.seams.saved.restored_place import restore_place

  rows, remembers = range(config.global_batch_size_to_train_on), is_melodi(config)
  if isinstance(data_iterator, EndTogether):
    with _reading("its place in the documents"):
      read_place(folder / "iter")
    # From here on a fault is one of the documents, and not of the checkpoint.
    rows = restore_place(config, data_iterator, folder / "iter")
    data_iterator = None  # done
  with _reading("the list of its arrays"):
    queues = remembers and is_counted(config)
    keep = restored_memory.of_checkpoint(folder / "items", rows=rows, queues=queues)
  with _reading("an array"), keep:
    restored, params = restore(data_iterator)
  if remembers and restored:
    if rows and None in rows:
      restored_memory.spread(restored["items"], rows, like)
    restored_memory.fit(restored["items"], config)
  return restored, params


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
  """Whatever a library raises because of what it reads becomes `_Broken`.

  Raises:
    UserError: if it cannot be read now, which is no fault of the checkpoint.
  """
  from melodi_plugin.data.place import BrokenPlace

  try:
    with ending_reads():
      yield
  except BrokenPlace as error:
    raise _Broken(f"{what} {error}") from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    cause: BaseException = error
    while cause.__cause__:  # Orbax says of an array that it has no handler for it
      cause = cause.__cause__
    reason = str(cause).strip().partition("\n")[0][:200] or type(cause).__name__
    if is_of_the_moment(error):
      raise UserError(
        f"the last checkpoint cannot be read now, {what} of it: {reason}; mend that, and the same "
        "command goes on."
      ) from error
    raise _Broken(f"{what} cannot be read ({reason})") from error


def _set_aside(manager: Any, step: int, broken: _Broken, config: Any) -> None:
  """Gives a broken checkpoint another name, so that the one before it is the last.

  Raises:
    UserError: if there is none before it, or the config does not want it.
  """
  import jax
  from absl import logging
  from maxtext.common import checkpointing

  folder, steps = manager.directory / str(step), sorted(checkpointing.all_steps(manager))
  said = f"{folder} is damaged: {broken}"
  if len(steps) == 1:
    raise UserError(
      f"{said}, and there is no checkpoint before it; copy it back, or choose another run_name."
    ) from broken
  if not config.melodi_checkpoint_fallback or jax.process_count() > 1:
    raise UserError(
      f"{said}; rename its folder to go on from step {steps[-2]}, or copy it back."
    ) from broken
  aside = manager.directory / f"{step}.broken"
  while aside.exists():
    aside = aside.with_name(f"{aside.name}.broken")
  folder.rename(aside)
  manager.reload()
  logging.warning("%s, so it is %s now, and the run goes on from step %d.", said, aside, steps[-2])


@contextlib.contextmanager
def _arrays_of(path: str) -> Iterator[None]:
  """Arrays of the checkpoint `path` that cannot be read are one sentence."""
  with user_errors(ValueError), reading_arrays(path):
    yield


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
