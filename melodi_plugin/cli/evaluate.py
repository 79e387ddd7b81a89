"""`melodi evaluate`: whole documents, memory carried."""

import argparse

from absl import logging

from melodi_plugin.evaluation.evaluate import evaluate
from melodi_plugin.training.progress import quiet_checkpoint_log


def main(options: argparse.Namespace) -> None:
  """Evaluates the checkpoints that the keys name."""
  logging.set_verbosity(logging.WARNING)
  quiet_checkpoint_log()
  evaluate(["", options.config, *options.keys])
