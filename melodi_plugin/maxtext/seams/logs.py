"""What MaxText logs about a training step."""

import functools

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.maxtext.seams.seam import Undo, all_of, parameters, replace
from melodi_plugin.training.progress import INPUT_WAIT, Progress


def probe_progress() -> str | None:
  from maxtext.common.metric_logger import MetricLogger

  return parameters(MetricLogger._log_training_metrics, "self", "metrics", "step") or parameters(
    MetricLogger.record_train_metrics, "self", "metrics", "step", "step_time"
  )


def apply_progress() -> Undo:
  """The time that a step waited for its input, and a line with tokens/s and ETA."""
  from maxtext.common.metric_logger import MetricLogger

  record, log = MetricLogger.record_train_metrics, MetricLogger._log_training_metrics

  @functools.wraps(record)
  def record_train_metrics(self, metrics, step, step_time):
    record(self, metrics, step, step_time)
    if is_melodi(self.config):
      metrics["scalar"]["perf/input_wait_seconds"] = INPUT_WAIT.take()

  @functools.wraps(log)
  def log_training_metrics(self, metrics, step):
    log(self, metrics, step)
    if is_melodi(self.config):
      if not hasattr(self, "melodi_progress"):
        slots = self.config.global_batch_size_to_train_on * self.config.max_target_length
        self.melodi_progress = Progress(self.config.steps, slots)
      self.melodi_progress.step_done(step, metrics["scalar"])

  undos = [
    replace(MetricLogger, "record_train_metrics", record_train_metrics),
    replace(MetricLogger, "_log_training_metrics", log_training_metrics),
  ]
  return all_of(undos)
