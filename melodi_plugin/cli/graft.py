"""`melodi graft`: memory for a stock model, or a stock model without it."""

import argparse

from absl import logging

from melodi_plugin.checkpoints.graft import graft, show, strip
from melodi_plugin.config.systems import has_base_block
from melodi_plugin.errors import UserError, user_errors
from melodi_plugin.maxtext.launch import load_config


def main(options: argparse.Namespace) -> None:
  """Writes the checkpoint, and says what is in it."""
  logging.set_verbosity(logging.WARNING)
  config = load_config(["", options.config, *options.keys])
  if not config.load_parameters_path:
    raise UserError("load_parameters_path is not set; add load_parameters_path=<checkpoint>/items.")
  if not has_base_block(config):
    raise UserError(
      "melodi_base_block is not set, so there is nothing to put memory around; set it to the "
      "decoder_block of the stock model, such as llama2."
    )
  with user_errors(ValueError, OSError):
    show(strip(config) if options.strip else graft(config))
