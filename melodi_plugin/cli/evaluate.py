"""`melodi evaluate cfg.yml load_parameters_path=…/items`: whole documents, memory carried."""

from collections.abc import Sequence

from absl import logging

from melodi_plugin.evaluation.evaluate import evaluate
from melodi_plugin.training.progress import quiet_checkpoint_log


def main(argv: Sequence[str]) -> None:
  """Command line of `evaluate`."""
  logging.set_verbosity(logging.WARNING)
  quiet_checkpoint_log()
  evaluate(argv)
