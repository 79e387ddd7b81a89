"""One run of MaxText's trainer: its config read once, progress for a person, a soft Ctrl-C."""

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from maxtext.common import checkpointing
from maxtext.common.metric_logger import MetricLogger
from maxtext.configs import pyconfig
from maxtext.trainers.pre_train import train as trainer
from maxtext.utils import exceptions

from melodi_plugin.maxtext.seams.seam import Undo, all_of, replace
from melodi_plugin.training.gate_moves import is_gate, unmoved
from melodi_plugin.training.parameter_paths import name_of
from melodi_plugin.training.progress import Progress, Screen


class Session:
  """How far a run has come.

  Attributes:
    steps_done: as MaxText counts them, over all sittings.
    interrupted: whether the user has stopped it.
  """

  def __init__(self, config: Any, screen: Screen):
    self.config = config
    self.screen = screen
    self.steps_done = 0
    self.interrupted = False
    self._moves: Callable[[], str | None] | None = None  # what there is to say of gates

  def train(self) -> None:
    """Runs MaxText's trainer to its end, or to the end of the step in which the user stops it."""
    undo = all_of([self._config_read_once(), self._progress(), self._stop(), self._gates()])
    try:
      trainer.main([""])
    finally:
      undo()
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

  def _stop(self) -> Undo:
    """Ctrl-C in a step lets it end, and saves."""
    iterate = trainer.training_loop_iteration

    @functools.wraps(iterate)
    def training_loop_iteration(device_state, variables, fixed):
      with self._soft_interrupt():
        metrics = iterate(device_state, variables, fixed)
      if self.interrupted:
        manager = variables["checkpoint_manager"]
        if manager is not None:
          checkpointing.maybe_save_checkpoint(
            manager, device_state["state"], self.config, variables["data_iterator"]
          )
          checkpointing.wait_until_finished(manager)
        raise exceptions.StopTraining("interrupted by the user")
      return metrics

    return replace(trainer, "training_loop_iteration", training_loop_iteration)

  def _gates(self) -> Undo:
    """Notes where gates are before the first step, to see at the end whether they have moved."""
    may_move = self.config.melodi_scalar_learning_rate_multiplier > 0
    iterate = trainer.training_loop_iteration

    @functools.wraps(iterate)
    def training_loop_iteration(device_state, variables, fixed):
      if self._moves is None and may_move:
        before, first = _gates_of(device_state), variables["step"]

        def moves() -> str | None:
          after = _gates_of(device_state)
          return unmoved(before, after, self.steps_done - first)

        self._moves = moves
      return iterate(device_state, variables, fixed)

    return replace(trainer, "training_loop_iteration", training_loop_iteration)

  @contextlib.contextmanager
  def _soft_interrupt(self) -> Iterator[None]:
    """Notes the first Ctrl-C; the second is an error as ever.  Of one process alone."""
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
      yield
      return

    def note(number: int, frame: Any) -> None:
      self.interrupted = True
      signal.signal(signal.SIGINT, before)
      self.screen.say("stopping after this step; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, note)
    try:
      yield
    finally:
      signal.signal(signal.SIGINT, before)


def _gates_of(device_state: dict[str, Any]) -> dict[str, np.ndarray]:
  """The gates of memory around a stock block; every host has them whole."""
  params = nnx.to_flat_state(device_state["state"].model.filter(nnx.Param))
  named = ((name_of(path), leaf) for path, leaf in params)
  return {name: np.asarray(leaf[...]) for name, leaf in named if is_gate(name)}
