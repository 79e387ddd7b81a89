"""`melodi graft cfg.yml load_parameters_path=<stock>/items [--strip]`: memory for a stock model."""

from collections.abc import Sequence

from absl import logging

from melodi_plugin.checkpoints.graft import graft, show, strip
from melodi_plugin.config.systems import has_base_block
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.launch import load_config


def main(argv: Sequence[str]) -> None:
  """Command line of `graft`."""
  logging.set_verbosity(logging.WARNING)
  stripping = "--strip" in argv
  config = load_config([word for word in argv if word != "--strip"])
  if not config.load_parameters_path:
    raise UserError("load_parameters_path is not set; add load_parameters_path=<checkpoint>/items.")
  if not has_base_block(config):
    raise UserError(
      "melodi_base_block is not set, so there is nothing to put memory around; set it to the "
      "decoder_block of the stock model, such as llama2."
    )
  try:
    show(strip(config) if stripping else graft(config))
  except (ValueError, OSError) as error:
    raise UserError(str(error)) from error
