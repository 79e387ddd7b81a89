"""What MaxText records of a training step."""

import functools
import json

from melodi_plugin.config.systems import reads_in_rows
from melodi_plugin.maxtext.seams.seam import Undo, all_of, parameters, replace
from melodi_plugin.output.files import writing
from melodi_plugin.training.progress import INPUT_WAIT


def probe_metrics() -> str | None:
  from maxtext.common import metric_logger

  logger = metric_logger.MetricLogger
  if not hasattr(metric_logger, "_prepare_metrics_for_json"):
    return "has no _prepare_metrics_for_json"
  return parameters(
    logger.record_train_metrics, "self", "metrics", "step", "step_time"
  ) or parameters(logger.write_metrics_locally, "self", "metrics", "step")


def apply_metrics() -> Undo:
  """The time that a step waited for its input; a file of metrics that evaluation leaves whole."""
  from maxtext.common import metric_logger

  logger = metric_logger.MetricLogger
  record, write = logger.record_train_metrics, logger.write_metrics_locally

  @functools.wraps(record)
  def record_train_metrics(self, metrics, step, step_time):
    record(self, metrics, step, step_time)
    if reads_in_rows(self.config):
      metrics["scalar"]["perf/input_wait_seconds"] = INPUT_WAIT.take()

  @functools.wraps(write)
  def write_metrics_locally(self, metrics, step):
    # MaxText empties the file at step 0, also at that of every evaluation.
    evaluation = any(name.startswith("eval/") for name in metrics["scalar"])
    path = self.config.metrics_file
    with writing(path):
      if not (evaluation and reads_in_rows(self.config)):
        write(self, metrics, step)
        return
      line = metric_logger._prepare_metrics_for_json(metrics, step, self.config.run_name)
      with open(path, "a", encoding="utf8") as file:
        file.write(json.dumps(line) + "\n")

  return all_of(
    [
      replace(logger, "record_train_metrics", record_train_metrics),
      replace(logger, "write_metrics_locally", write_metrics_locally),
    ]
  )
