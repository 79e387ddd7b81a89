"""`melodi evaluate`: whole documents, memory carried."""

import argparse

from melodi_plugin.evaluation.evaluate import evaluate
from melodi_plugin.training.progress import quiet_logs


def main(options: argparse.Namespace) -> None:
  """Evaluates the checkpoints that the keys name."""
  quiet_logs()
  evaluate(["", options.config, *options.keys])
