"""One run of MaxText's trainer: its config read once, progress for a person, a soft stop."""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from maxtext.common import checkpoint_context, checkpointing
from maxtext.common.metric_logger import MetricLogger
from maxtext.configs import pyconfig
from maxtext.trainers.pre_train import train as trainer
from maxtext.utils import exceptions
from orbax.checkpoint import v1 as ocp

from melodi_plugin.maxtext.seams.seam import Undo, all_of, replace
from melodi_plugin.output.lock import Lock
from melodi_plugin.training.divergence import Divergence
from melodi_plugin.training.gate_moves import is_gate, unmoved
from melodi_plugin.training.parameter_paths import name_of
from melodi_plugin.training.progress import Progress, Screen


class Session:
  """How far a run has come.

  Attributes:
    steps_done: as MaxText counts them, over all sittings.
    stopped_by: the signal that has stopped it, SIGINT or SIGTERM; None if none has.
  """

  def __init__(self, config: Any, screen: Screen, lock: Lock | None = None):
    self.config = config
    self.screen = screen
    self._lock = lock  # on the folder of the run
    self.steps_done = 0
    self.stopped_by: int | None = None
    self._undo_terminate: Undo | None = None
    self._divergence: Divergence | None = None
    self._moves: Callable[[], str | None] | None = None  # what there is to say of gates

  def train(self) -> None:
    """Runs MaxText's trainer to its end, or to the end of the step in which it is stopped."""
    parts = (self._config_read_once, self._progress, self._stop, self._gates, self._keep_finite)
    undo = all_of([part() for part in parts])
    try:
      trainer.main([""])
    finally:
      undo()
      if self._undo_terminate:
        self._undo_terminate()
    if self._moves and (said := self._moves()) and jax.process_index() == 0:
      self.screen.say(f"warning: {said}")

  def _config_read_once(self) -> Undo:
    return replace(pyconfig, "initialize", lambda *_, **__: self.config)

  def _progress(self) -> Undo:
    """MaxText's lines per step stay in its log; a person sees ours."""
    slots = self.config.global_batch_size_to_train_on * self.config.max_target_length
    progress, shown = Progress(self.config.steps, slots), jax.process_index() == 0
    log, log_eval = MetricLogger._log_training_metrics, MetricLogger._log_eval_metrics

    @functools.wraps(log)
    def log_training_metrics(logger, metrics, step):
      log(logger, metrics, step)
      self.steps_done = step + 1
      words = progress.step_done(step, metrics["scalar"])
      if self._divergence:
        self._divergence.step_done(step, float(metrics["scalar"]["learning/loss"]))
      if shown:
        self.screen.show(step, words)

    @functools.wraps(log_eval)
    def log_eval_metrics(logger, metrics, step):
      log_eval(logger, metrics, step)
      if shown:
        loss, perplexity = (metrics["scalar"][f"eval/avg_{n}"] for n in ("loss", "perplexity"))
        self.screen.say(f"step {step + 1}: held out, loss {loss:.3f}, perplexity {perplexity:.2f}")

    return all_of(
      [
        replace(MetricLogger, "_log_training_metrics", log_training_metrics),
        replace(MetricLogger, "_log_eval_metrics", log_eval_metrics),
      ]
    )

  def _keep_finite(self) -> Undo:
    """A run that goes on without a finite loss keeps its last finite checkpoint."""
    config = self.config
    if config.abort_on_nan_loss and config.abort_on_inf_loss:
      return lambda: None
    folder, first = f"{config.base_output_directory}/{config.run_name}", jax.process_index() == 0
    say = self.screen.say if first else lambda _: None
    divergence = Divergence(f"{folder}/not_finite.json", say, writes=first)
    build = checkpoint_context.build_preservation_policy

    def build_preservation_policy(**how: Any) -> Any:
      both: Any = [build(**how), divergence]
      return ocp.training.preservation_policies.AnyPreservationPolicy(both)

    self._divergence = divergence
    return replace(checkpoint_context, "build_preservation_policy", build_preservation_policy)

  def _stop(self) -> Undo:
    """Ctrl-C or SIGTERM in a step lets it end, and saves."""
    iterate = trainer.training_loop_iteration

    @functools.wraps(iterate)
    def training_loop_iteration(device_state, variables, fixed):
      if self._lock:
        self._lock.check()
      try:
        with self._soft_interrupt():
          metrics = iterate(device_state, variables, fixed)
      except exceptions.StopTraining as stop:
        if "SIGTERM" in str(stop):  # MaxText's, where several processes have agreed on a step
          self.stopped_by = signal.SIGTERM
        raise
      self._undo_terminate = self._undo_terminate or self._soft_terminate()
      if self.stopped_by is not None:
        manager = variables["checkpoint_manager"]
        if manager is not None:
          checkpointing.maybe_save_checkpoint(
            manager, device_state["state"], self.config, variables["data_iterator"]
          )
          checkpointing.wait_until_finished(manager)
        raise exceptions.StopTraining("stopped by a signal")
      return metrics

    return replace(trainer, "training_loop_iteration", training_loop_iteration)

  def _gates(self) -> Undo:
    """Notes where gates are before the first step, to see at the end whether they have moved."""
    may_move = self.config.melodi_scalar_learning_rate_multiplier > 0
    iterate = trainer.training_loop_iteration

    @functools.wraps(iterate)
    def training_loop_iteration(device_state, variables, fixed):
      # A run that goes on may have moved them before.
      if self._moves is None and may_move and variables["step"] == 0:
        before = _gates_of(device_state)

        def moves() -> str | None:
          after = _gates_of(device_state)
          return unmoved(before, after, self.steps_done)

        self._moves = moves
      return iterate(device_state, variables, fixed)

    return replace(trainer, "training_loop_iteration", training_loop_iteration)

  @contextlib.contextmanager
  def _soft_interrupt(self) -> Iterator[None]:
    """Notes the first Ctrl-C; the second is an error as ever.  Of one process alone."""
    if not _signals_are_ours():
      yield
      return

    def note(number: int, frame: Any) -> None:
      self.stopped_by = number
      signal.signal(signal.SIGINT, before)
      self.screen.say("stopping after this step; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, note)
    try:
      yield
    finally:
      signal.signal(signal.SIGINT, before)

  def _soft_terminate(self) -> Undo:
    """Notes a SIGTERM from now on.  Before the first step has ended nothing could be saved."""
    if not _signals_are_ours():
      return lambda: None

    def note(number: int, frame: Any) -> None:
      self.stopped_by = number
      self.screen.say("stopping after this step, because of SIGTERM")

    before = signal.signal(signal.SIGTERM, note)

    def undo() -> None:
      signal.signal(signal.SIGTERM, before)

    return undo


def _signals_are_ours() -> bool:
  """Several processes have to agree on a step: JAX does that, with SIGTERM."""
  return jax.process_count() == 1 and threading.current_thread() is threading.main_thread()


def _gates_of(device_state: dict[str, Any]) -> dict[str, np.ndarray]:
  """The gates of memory around a stock block; every host has them whole."""
  params = nnx.to_flat_state(device_state["state"].model.filter(nnx.Param))
  named = ((name_of(path), leaf) for path, leaf in params)
  return {name: np.asarray(leaf[...]) for name, leaf in named if is_gate(name)}
