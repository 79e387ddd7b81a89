"""Trainings and ahead-of-time compiles: what is checked before, and how they end."""

import contextlib
import importlib.util
import os
import pathlib
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from melodi_plugin.data.corpus.presets import prepare_corpus
from melodi_plugin.data.records import DocumentsError
from melodi_plugin.errors import (
  Interrupted,
  Terminated,
  UserError,
  is_full,
  unwritten,
  user_errors,
)
from melodi_plugin.maxtext import weights
from melodi_plugin.maxtext.configs import load_config, read_config
from melodi_plugin.maxtext.machine import check_sizes, written
from melodi_plugin.maxtext.run_log import off_the_screen
from melodi_plugin.maxtext.seams.seam import replace
from melodi_plugin.output.lock import Lock, locked
from melodi_plugin.training.progress import Screen

_NO_LIBTPU = (
  "compiling for a TPU needs the package libtpu: uv run --extra tpu-compile melodi compile …"
)
_LIBTPU_TAKEN = (
  "another process has libtpu, or one that was killed has left its lock: wait for it to end, or "
  "remove /tmp/libtpu_lockfile."
)


def train(argv: Sequence[str]) -> Any:
  """Trains with MaxText's trainer, after the demo corpus was written; returns the config.

  Raises:
    UserError: for what a user can mend, in one sentence.
    Interrupted: if a person or a scheduler has stopped it; what is done by then is saved.
  """
  with off_the_screen() as log:
    config = read_config(argv, here=True)
    _check(config)
    folder = os.path.join(config.base_output_directory, config.run_name)
    with _full_disk(config):
      log.open(folder, jax.process_index())
      # The processes of one run are one owner, for which the first speaks.
      own = locked(folder) if jax.process_index() == 0 else contextlib.nullcontext()
      with own as lock, Screen(config.steps, config.log_period) as screen:
        if (done := _steps_done(config)) >= config.steps:
          screen.say(
            f"{config.run_name} is done: its last checkpoint is of step {done}, and steps="
            f"{config.steps}.  Set more steps to go on, or another run_name to begin anew."
          )
        else:
          _run(config, screen, lock)
  return config


@contextlib.contextmanager
def _full_disk(config: Any) -> Iterator[None]:
  """A disk without space ends a run in one sentence, whatever file it was."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if not is_full(error):
      raise
    where = unwritten(error) or f"a file of this run, most likely in {config.base_output_directory}"
    raise UserError(f"no space is left for {where}: free some; {_left(config)}") from error


def _check(config: Any) -> None:
  """What MaxText says in a traceback, or not at all."""
  check_sizes(config, "steps", "checkpoint_period", "log_period")
  if config.model_call_mode:
    raise UserError(
      f"model_call_mode={config.model_call_mode} is for decoding and would change what is trained; "
      "leave it out."
    )
  if config.enable_checkpointing:
    with user_errors(ValueError):
      weights.check_can_be_saved(os.path.join(config.base_output_directory, config.run_name))
  for key in ("load_parameters_path", "load_full_state_path"):
    if path := getattr(config, key):
      with user_errors(ValueError, OSError):
        found = weights.find_checkpoint(path)
        weights.stored_shapes(found)  # raises if it is something else
      # MaxText takes no relative path, no pattern, and no folder above `items`.
      config.get_keys()[key] = found


def _run(config: Any, screen: Screen, lock: Lock | None) -> None:
  from melodi_plugin.maxtext.session import Session  # after registration: it imports the trainer

  if config.melodi_prepare_data:
    with user_errors(ValueError, OSError):
      prepare_corpus(config.melodi_prepare_data, pathlib.Path(config.grain_train_files).parent)
  if jax.process_count() > 1:  # then MaxText saves at the step on which all agree after a SIGTERM
    config.get_keys()["enable_autocheckpoint"] = True
  session = Session(config, screen, lock)
  try:
    session.train()
  except KeyboardInterrupt:
    raise Interrupted(_left(config)) from None
  except SystemExit as end:  # of abort_on_nan_loss and abort_on_inf_loss
    raise UserError(
      f"the loss is not finite after step {session.steps_done}, so the run has ended; lower "
      "learning_rate, or set abort_on_nan_loss=false and abort_on_inf_loss=false to go on."
    ) from end
  except DocumentsError as error:
    raise UserError(str(error)) from error
  if session.stopped_by is not None:
    kind = Terminated if session.stopped_by == signal.SIGTERM else Interrupted
    raise kind(_left(config))
  if session.steps_done < config.steps:
    screen.say(
      f"training has ended after step {session.steps_done} of {config.steps}, as it does where the "
      "text ends (num_epoch reads it again); log.txt of this run says why."
    )


def _steps_done(config: Any) -> int:
  """Steps up to the last checkpoint of this run; 0 if there is none."""
  if not config.enable_checkpointing:
    return 0
  try:
    found = weights.run_checkpoints(config.checkpoint_dir)
  except (ValueError, OSError):
    return 0
  # A checkpoint that was never finished has a longer name.
  names = (pathlib.PurePath(path).parent.name for path in found)
  return max((1 + int(name) for name in names if name.isdecimal()), default=0)


def _left(config: Any) -> str:
  """What is saved of a run that was stopped."""
  if done := _steps_done(config):
    return f"{done} of {config.steps} steps are saved; the same command goes on there."
  hint = "" if config.enable_checkpointing else "; enable_checkpointing=true saves what is done"
  return f"no step of this run is saved{hint}."


def compile_ahead(argv: Sequence[str]) -> Any:
  """Compiles for the topology of the config with MaxText's `train_compile`.

  Returns:
    The training step, a `jax.stages.Compiled`.
  """
  if written(argv, "compile_topology_num_slices") is None:
    argv = [*argv, "compile_topology_num_slices=1"]
  config = load_config(argv, here=False)  # MaxText reads it once more, but says less about errors
  if not config.compile_topology:
    raise UserError(
      "compile_topology is not set; add the accelerators, as compile_topology=v5e-16."
    )
  if config.hardware == "tpu" and importlib.util.find_spec("libtpu") is None:
    raise UserError(_NO_LIBTPU)
  from maxtext.trainers.pre_train import train_compile  # after registration

  steps, original = [], train_compile.jit_and_compile
  undo = replace(
    train_compile, "jit_and_compile", lambda *a: steps.append(original(*a)) or steps[0]
  )
  try:
    train_compile.main(argv)
  except RuntimeError as error:  # a topology of TPUs for a model that was to run elsewhere
    if "TPU support not installed" in str(error):
      raise UserError(_NO_LIBTPU) from error
    if "libtpu multi-process lockfile" in str(error):
      raise UserError(_LIBTPU_TAKEN) from error
    raise
  finally:
    undo()
  return steps[0]
