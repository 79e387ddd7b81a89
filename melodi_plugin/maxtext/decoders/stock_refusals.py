"""What a decoder without memory cannot be asked for: each is refused with one sentence."""

from typing import Any

from melodi_plugin.config.settings import as_written
from melodi_plugin.maxtext.refusals.blocks import NO_MEMORY, STOCK_BLOCKS
from melodi_plugin.maxtext.refusals.every_block import context_parallel
from melodi_plugin.maxtext.refusals.loader import LOADER
from melodi_plugin.maxtext.refusals.refusal import Refusal, refuse

# What a stock decoder that reads documents in rows cannot do.
STOCK_ROWS = (
  *LOADER,
  Refusal(
    lambda c: as_written(c.dataset_type) not in ("grain", "synthetic"),
    "melodi_documents_in_rows=true reads the files of grain_train_files; set dataset_type=grain.",
  ),
  Refusal(
    lambda c: (
      as_written(c.dataset_type) == "grain" and c.max_target_length % c.melodi_window_length
    ),
    "max_target_length={c.max_target_length} is not a whole number of windows of "
    "melodi_window_length={c.melodi_window_length} tokens, at which documents begin; change one of "
    "them.",
  ),
  Refusal(
    lambda c: c.attention in ("cudnn_flash_te", "cudnn_flash_jax"),
    "attention={c.attention} has not been shown to keep the documents of a row apart; set "
    "attention=autoselected or dot_product.",
  ),
)

# What memory alone has a use for.
NEEDS_MEMORY = (
  Refusal(
    lambda c: bool(c.melodi_adapter),
    "melodi_adapter={c.melodi_adapter} is what memory adds to a block, and there is no memory; set "
    "melodi_base_block, or leave the adapter out.",
  ),
  Refusal(
    lambda c: c.melodi_distill_weight > 0,
    "melodi_distill_weight={c.melodi_distill_weight} lets memory around a stock block learn from "
    "that block, and there is no memory; set melodi_base_block, or the key to 0.",
  ),
)

# Where a stock decoder's attention has no place for sinks and a sliding window.
STOCK_WINDOW = (
  Refusal(
    lambda c: c.melodi_sink_tokens and not c.melodi_sliding_window,
    "melodi_sink_tokens={c.melodi_sink_tokens} is what stays visible beside a "
    "melodi_sliding_window; set that, too.",
  ),
  Refusal(
    lambda c: c.melodi_sliding_window and c.attention != "dot_product",
    "melodi_sliding_window={c.melodi_sliding_window} is a mask, which attention={c.attention} may "
    "not read; set attention=dot_product.",
  ),
  Refusal(
    lambda c: c.melodi_sliding_window and as_written(c.attention_type) != "global",
    "melodi_sliding_window={c.melodi_sliding_window} takes the place of "
    "attention_type={c.attention_type}; leave that at 'global'.",
  ),
  Refusal(
    lambda c: c.melodi_sliding_window and c.context_parallel_load_balance and context_parallel(c),
    "context_parallel_load_balance=true permutes the tokens of a segment, and "
    "melodi_sliding_window={c.melodi_sliding_window} counts them in order; set it to false.",
  ),
)

_WINDOWED_BLOCKS = tuple(block for block in STOCK_BLOCKS if not block.startswith("gemma"))
_NO_WINDOW = NO_MEMORY | dict.fromkeys(
  ("gemma2", "gemma3"), "some of them have a window of their own"
)


def check_stock(config: Any) -> None:
  """Raises ValueError with the sentence of the first refusal that holds for a stock decoder."""
  if config.melodi_documents_in_rows:
    refuse(config, STOCK_ROWS)
  refuse(config, STOCK_WINDOW + NEEDS_MEMORY)
  block = as_written(config.decoder_block)
  if config.melodi_sliding_window and block not in _WINDOWED_BLOCKS:
    why = _NO_WINDOW.get(block, "no test has shown that they can")
    raise ValueError(
      f"melodi_sliding_window={config.melodi_sliding_window}: the layers of decoder_block={block} "
      f"cannot have it, because {why}; set it to 0, or decoder_block to one of "
      f"{', '.join(_WINDOWED_BLOCKS)}."
    )
