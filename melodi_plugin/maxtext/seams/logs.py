"""What MaxText records of a training step."""

import functools

from melodi_plugin.config.systems import reads_in_rows
from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace
from melodi_plugin.training.progress import INPUT_WAIT


def probe_metrics() -> str | None:
  from maxtext.common.metric_logger import MetricLogger

  return parameters(MetricLogger.record_train_metrics, "self", "metrics", "step", "step_time")


def apply_metrics() -> Undo:
  """The time that a step waited for its input."""
  from maxtext.common.metric_logger import MetricLogger

  record = MetricLogger.record_train_metrics

  @functools.wraps(record)
  def record_train_metrics(self, metrics, step, step_time):
    record(self, metrics, step, step_time)
    if reads_in_rows(self.config):
      metrics["scalar"]["perf/input_wait_seconds"] = INPUT_WAIT.take()

  return replace(MetricLogger, "record_train_metrics", record_train_metrics)
