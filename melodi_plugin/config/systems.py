"""The systems, by their names: the values of `decoder_block`."""

from typing import Any

from melodi_plugin.config.keys import PAPER
from melodi_plugin.config.settings import as_written

MELODI = "melodi"
TRANSFORMER_XL = "transformer_xl"
MEMORIZING = "memorizing_transformer"
BLOCK_RECURRENT = "block_recurrent"
SYSTEMS = (MELODI, TRANSFORMER_XL, MEMORIZING, BLOCK_RECURRENT)


def system_of(config: Any) -> str:
  """The system that a MaxText config asks for; around a stock block it is MELODI."""
  block = as_written(config.decoder_block)
  return MELODI if config.melodi_base_block != PAPER else block


def is_melodi(config: Any) -> bool:
  """Whether a MaxText config asks for a decoder with memory: a system, or around a stock block."""
  return as_written(getattr(config, "decoder_block", None)) in SYSTEMS or has_base_block(config)


def has_base_block(config: Any) -> bool:
  """Whether memory goes around a block of MaxText; `decoder_block` is then that block."""
  return getattr(config, "melodi_base_block", PAPER) != PAPER
