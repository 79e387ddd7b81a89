"""Of the loader that gives documents to rows, with memory or without."""

from melodi_plugin.maxtext.refusals.refusal import Refusal, is_set

LOADER = (
  Refusal(
    is_set("enable_rampup_batch_size"),
    "enable_rampup_batch_size=true moves documents between rows, and memory belongs to rows; set "
    "it to false.",
  ),
  Refusal(
    lambda c: 0 < c.expansion_factor_real_data < 1,
    "expansion_factor_real_data={c.expansion_factor_real_data} alternates between loaders, so rows "
    "would change their document at every step; set it to -1.",
  ),
  Refusal(
    lambda c: c.generate_padding_batch_train or c.generate_padding_batch_eval,
    "generate_padding_batch_* inserts batches that are not the rows' documents; set both to false.",
  ),
  Refusal(
    is_set("grain_use_elastic_iterator"),
    "grain_use_elastic_iterator=true reassigns documents to rows; set it to false.",
  ),
  Refusal(
    is_set("elastic_enabled"),
    "elastic_enabled=true changes the rows of the batch while memory belongs to them; set it to "
    "false.",
  ),
  Refusal(
    lambda c: c.enable_emergency_checkpoint or c.enable_multi_tier_checkpointing,
    "emergency and multi-tier checkpoints do not save the loader's place in the documents, so "
    "memory and text would part; use ordinary checkpoints.",
  ),
)
