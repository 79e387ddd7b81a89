"""Of every layer with memory, the paper's and those around a stock block."""

from typing import Any

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.settings import as_written, parse_numbers
from melodi_plugin.config.systems import (
  BLOCK_RECURRENT,
  MELODI,
  MEMORIZING,
  TRANSFORMER_XL,
  system_of,
)
from melodi_plugin.maxtext.refusals.loader import LOADER
from melodi_plugin.maxtext.refusals.refusal import Refusal, is_set
from melodi_plugin.maxtext.refusals.remat import CUSTOM, POLICIES


def context_parallel(config: Any) -> bool:
  """Whether tokens of a row lie on several devices, which is when MaxText permutes them.

  It does by the axis that context_sharding names; -1 means what is left over.
  """
  keys = (f"{link}_{config.context_sharding}_parallelism" for link in ("ici", "dcn"))
  return any(getattr(config, key, 1) not in (0, 1) for key in keys)


def _other_cache(config: Any) -> bool:
  """Also the official code's own has neither another length nor sinks."""
  if system_of(config) == MELODI:
    return config.melodi_base_block == PAPER
  return system_of(config) != TRANSFORMER_XL or config.melodi_reference_defects


def _layers(config: Any) -> tuple[LayerSpec, ...]:
  """What the layers keep."""
  return MelodiConfig.from_maxtext(config).layers


def _can_be_drawn(written: str) -> bool:
  """Whether they are numbers of windows."""
  try:
    drawn = parse_numbers(written)
  except ValueError:
    return False
  return bool(drawn) and min(drawn) >= 0


EVERY_BLOCK = (
  # Keys of another system.
  Refusal(
    lambda c: c.melodi_cache_tokens > 0 and _other_cache(c),
    "melodi_cache_tokens={c.melodi_cache_tokens} is a key of memory around a stock block "
    "(melodi_base_block), and of transformer_xl without melodi_reference_defects; set it to 0.",
  ),
  Refusal(
    lambda c: c.melodi_sink_tokens > 0 and _other_cache(c),
    "melodi_sink_tokens={c.melodi_sink_tokens} is a key of stock decoders, of memory around them "
    "(melodi_base_block), and of transformer_xl without melodi_reference_defects; set it to 0.",
  ),
  Refusal(
    lambda c: c.melodi_neighbors > 0 and system_of(c) != MEMORIZING,
    "melodi_neighbors={c.melodi_neighbors} is a key of memorizing_transformer; set decoder_block "
    "to that, or the key to 0.",
  ),
  Refusal(
    lambda c: c.melodi_exact_neighbors and not c.melodi_neighbors,
    "melodi_exact_neighbors=true finds nothing without melodi_neighbors; set how many.",
  ),
  Refusal(
    lambda c: c.melodi_recurrent_feedback and system_of(c) != BLOCK_RECURRENT,
    "melodi_recurrent_feedback=true is a key of block_recurrent; set decoder_block to that, or the "
    "key to false.",
  ),
  Refusal(
    lambda c: c.melodi_reference_defects and system_of(c) == MELODI,
    "melodi_reference_defects=true is for the systems that MELODI is compared with; set it to "
    "false.",
  ),
  Refusal(
    lambda c: c.melodi_initial_temperature != 1 and c.melodi_base_block != PAPER,
    "melodi_initial_temperature={c.melodi_initial_temperature} is for attention of our own, and "
    "the layers of {c.melodi_base_block} keep theirs; set it to 1.",
  ),
  Refusal(
    lambda c: (
      c.melodi_long_term_temperature > 0
      and (system_of(c) != MELODI or c.melodi_base_block != PAPER)
    ),
    "melodi_long_term_temperature={c.melodi_long_term_temperature} is for decoder_block=melodi in "
    "the paper's layers; set it to 0.",
  ),
  Refusal(
    lambda c: c.melodi_long_term_windows_drawn and system_of(c) != MELODI,
    "melodi_long_term_windows_drawn={c.melodi_long_term_windows_drawn} is for the queues of "
    "decoder_block=melodi; leave it out.",
  ),
  Refusal(
    lambda c: (
      c.melodi_long_term_windows_drawn and not _can_be_drawn(c.melodi_long_term_windows_drawn)
    ),
    "melodi_long_term_windows_drawn={c.melodi_long_term_windows_drawn} must be numbers of windows, "
    "as in 8,32; change it, or leave it out.",
  ),
  Refusal(
    lambda c: (
      (c.melodi_long_term_windows_drawn or c.melodi_long_term_pairs)
      and system_of(c) == MELODI
      and not any(spec.queue_tokens for spec in _layers(c))
    ),
    "melodi_long_term_windows_drawn={c.melodi_long_term_windows_drawn} and melodi_long_term_pairs="
    "{c.melodi_long_term_pairs} have no queue: melodi_long_term_increment="
    "{c.melodi_long_term_increment}, melodi_long_term_windows={c.melodi_long_term_windows}, "
    "melodi_long_term_layers={c.melodi_long_term_layers}; leave them out.",
  ),
  Refusal(
    lambda c: (
      max(c.melodi_cache_tokens, c.melodi_sink_tokens) > 0
      and c.melodi_base_block != PAPER
      and not any(spec.short_tokens for spec in _layers(c))
    ),
    "melodi_cache_tokens={c.melodi_cache_tokens} and melodi_sink_tokens={c.melodi_sink_tokens} are "
    "kept in the layers of melodi_short_term_layers, which has none; name some, or set both to 0.",
  ),
  Refusal(
    lambda c: c.melodi_long_term_pairs and c.melodi_base_block == PAPER,
    "melodi_long_term_pairs=true is for the queue around a stock block (melodi_base_block); set it "
    "to false.",
  ),
  Refusal(
    lambda c: c.melodi_adapter and c.melodi_base_block == PAPER,
    "melodi_adapter={c.melodi_adapter} is what memory adds around a melodi_base_block; set that, "
    "or leave the adapter out.",
  ),
  Refusal(
    lambda c: c.melodi_distill_weight > 0 and c.melodi_base_block == PAPER,
    "melodi_distill_weight={c.melodi_distill_weight} learns from a model that could read with full "
    "attention before it had memory, which is one with a melodi_base_block; set it to 0.",
  ),
  Refusal(
    lambda c: as_written(c.opt_type) == "muon" and c.muon_type not in ("optax", "optax_muon"),
    "muon_type={c.muon_type} does not know which axes of our parameters are those of matrices; set "
    "muon_type=optax_muon.",
  ),
  Refusal(
    lambda c: as_written(c.opt_type) == "muon" and c.adam_weight_decay > 0,
    "adam_weight_decay={c.adam_weight_decay} would hold norms, temperatures and gates back, as "
    "Muon's Adam knows no adamw_mask; set it to 0 (muon_weight_decay is that of matrices).",
  ),
  Refusal(
    lambda c: c.melodi_sliding_window > 0,
    "melodi_sliding_window={c.melodi_sliding_window} is a key of stock decoders without memory, "
    "which is read in windows of melodi_window_length; set it to 0.",
  ),
  Refusal(
    lambda c: c.remat_policy not in (None, CUSTOM, *POLICIES),
    f"remat_policy={{c.remat_policy}} is no remat policy of MaxText; take {CUSTOM}, "
    f"{', '.join(POLICIES)}.",
  ),
  # Rows must go on where they stopped.
  *LOADER,
  Refusal(
    is_set("packing"),
    "packing=true packs every row anew, so memory would mix documents; set packing=false, the "
    "loader already fills rows with whole documents.",
  ),
  Refusal(
    lambda c: as_written(c.dataset_type) not in ("grain", "synthetic"),
    "dataset_type={c.dataset_type.value} starts every row anew at every step, so memory would "
    "never be used; set dataset_type=grain and grain_train_files to a folder of documents.",
  ),
  Refusal(
    lambda c: c.reuse_example_batch > 0,
    "reuse_example_batch={c.reuse_example_batch} reads the same tokens again and again, so memory "
    "would hold what is to be predicted; set it to 0.",
  ),
  Refusal(
    lambda c: c.context_parallel_load_balance and context_parallel(c),
    "context_parallel_load_balance=true permutes the tokens of a segment, and windows are read in "
    "order; set it to false.",
  ),
  Refusal(
    lambda c: c.gradient_accumulation_steps > 1 and c.use_tunix_gradient_accumulation,
    "use_tunix_gradient_accumulation=true takes a mean of the means of microbatches, which differ "
    "in how many tokens they hold where documents end; set it to false.",
  ),
  Refusal(
    lambda c: c.eval_interval > 0 and c.compiled_trainstep_file,
    "eval_interval={c.eval_interval} needs an evaluation step, and compiled_trainstep_file holds "
    "none; leave one of them at its default.",
  ),
  Refusal(
    is_set("skip_step_on_spikes"),
    "skip_step_on_spikes=true undoes the parameters of a step but not its memory; set it to false "
    "(a row with non-finite memory keeps its old one anyway).",
  ),
  Refusal(
    lambda c: c.melodi_schedule == "diagonal" and c.enable_dropout and c.dropout_rate > 0,
    "melodi_schedule=diagonal reads with all layers at once, and MaxText's random numbers would be "
    "the same in each; set dropout_rate to 0, or melodi_schedule to layers.",
  ),
  # Places where memory cannot follow.
  Refusal(
    is_set("using_pipeline_parallelism"),
    "pipeline parallelism runs stages on rows out of step and forbids state in layers; set "
    "ici_pipeline_parallelism and dcn_pipeline_parallelism to 1.",
  ),
  Refusal(
    is_set("enable_diloco"),
    "enable_diloco=true splits the batch over replicas that would need a memory each; set it to "
    "false.",
  ),
  Refusal(
    lambda c: c.num_experts > 1 and c.capacity_factor > 0,
    "capacity_factor={c.capacity_factor} drops tokens, and what is dropped depends on the other "
    "rows; set it to -1.",
  ),
  Refusal(
    lambda c: (
      (c.use_sft and c.use_tunix_gradient_accumulation)
      or c.use_dpo
      or hasattr(c, "rl")
      or bool(c.student_overrides or c.teacher_overrides)
    ),
    "MaxText's post-training by Tunix (SFT, DPO, RL, distillation) has a loop of its own that has "
    "not been shown to work with memory; use `melodi train`, for conversations with use_sft=true "
    "and use_tunix_gradient_accumulation=false.",
  ),
  Refusal(
    lambda c: str(as_written(c.attention)).startswith("vllm"),
    "vLLM's attention keeps a cache of its own and knows nothing of memory; set "
    "attention=dot_product.",
  ),
  # Parts of MaxText that this decoder does not have.
  Refusal(
    lambda c: c.mtp_num_layers > 0,
    "mtp_num_layers={c.mtp_num_layers}: multi-token prediction would run MELODI layers without "
    "memory; set it to 0.",
  ),
  Refusal(
    lambda c: bool(as_written(c.quantization)),
    "quantization={c.quantization.value} has not been shown to work with memory, and Qwix's trial "
    "run writes into it; leave it empty.",
  ),
  Refusal(
    is_set("use_qwix_quantization"),
    "use_qwix_quantization=true has not been shown to work with memory, and Qwix's trial run "
    "writes into it; set it to false.",
  ),
  Refusal(
    is_set("use_multimodal"),
    "use_multimodal=true inserts tokens that are not text of the document; set it to false.",
  ),
  Refusal(
    lambda c: c.trainable_position_size > 0 or c.use_untrainable_positional_embedding,
    "absolute position embeddings do not reach the end of a long document; leave "
    "trainable_position_size at -1 and use_untrainable_positional_embedding at false.",
  ),
  Refusal(
    is_set("parameter_memory_host_offload"),
    "parameter_memory_host_offload=true is not supported by this decoder; set it to false.",
  ),
  Refusal(
    is_set("record_internal_nn_metrics"),
    "record_internal_nn_metrics={c.record_internal_nn_metrics} looks for MaxText's own layers; set "
    "it to 0.",
  ),
  Refusal(
    lambda c: c.mhc_expansion_rate > 1 or bool(c.engram_layers),
    "mhc_expansion_rate and engram_layers belong to other decoders; leave them at their defaults.",
  ),
  Refusal(
    lambda c: c.max_target_length % c.melodi_window_length != 0,
    "max_target_length={c.max_target_length} is not a whole number of windows of "
    "melodi_window_length={c.melodi_window_length} tokens; change one of them.",
  ),
  Refusal(
    lambda c: c.fused_qkv or c.fused_mlp,
    "fused_qkv and fused_mlp have not been shown to work with memory; set both to false.",
  ),
)
