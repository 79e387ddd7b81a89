"""Settings that are refused, and the words of the refusal's sentence by which it is known."""

import pytest

EMERGENCY = {"local_checkpoint_directory": "x", "local_checkpoint_period": 1}
EMERGENCY |= {"enable_checkpointing": True}
MOE = {"num_experts": 4, "base_moe_mlp_dim": 64}
ENGRAM = {"engram_layers": [1], "engram_vocab_bases": [64, 64], "engram_max_ngram_size": 3}
ENGRAM |= {"hf_access_token": "x", "tokenizer_path": "x"}

# In the paper's layers.
CASES = [
  ({"melodi_cache_tokens": 8}, "is a key of memory around a stock block"),
  ({"melodi_sink_tokens": 4}, "is a key of stock decoders, of memory around them"),
  ({"melodi_long_term_windows_drawn": "two"}, "must be numbers of windows"),
  ({"melodi_long_term_layers": "none", "melodi_long_term_windows_drawn": "1"}, "have no queue: "),
  ({"melodi_long_term_pairs": True}, "is for the queue around a stock block"),
  ({"melodi_long_term_windows": 0, "melodi_long_term_windows_drawn": "1"}, "have no queue: "),
  ({"melodi_neighbors": 4}, "is a key of memorizing_transformer"),
  ({"remat_policy": "most"}, "is no remat policy of MaxText; take custom, none, full, minimal"),
  ({"melodi_exact_neighbors": True}, "finds nothing without melodi_neighbors"),
  ({"melodi_recurrent_feedback": True}, "is a key of block_recurrent"),
  ({"melodi_sliding_window": 8}, "is a key of stock decoders without memory"),
  ({"melodi_reference_defects": True}, "for the systems that MELODI is compared with"),
  ({"opt_type": "muon", "muon_type": "maxtext_muon"}, "set muon_type=optax_muon"),
  ({"opt_type": "muon", "adam_weight_decay": 0.1}, "as Muon's Adam knows no adamw_mask"),
  ({"packing": True}, "packing=true packs every row anew"),
  ({"dataset_type": "tfds"}, "starts every row anew at every step"),
  ({"dataset_type": "hf", "hf_path": "x"}, "starts every row anew at every step"),
  ({"dataset_type": "c4_mlperf"}, "starts every row anew at every step"),
  ({"dataset_type": "olmo_grain"}, "starts every row anew at every step"),
  ({"enable_rampup_batch_size": True}, "enable_rampup_batch_size=true moves documents"),
  ({"expansion_factor_real_data": 0.5}, "alternates between loaders"),
  ({"generate_padding_batch_train": True}, "generate_padding_batch_* inserts batches"),
  ({"generate_padding_batch_eval": True}, "generate_padding_batch_* inserts batches"),
  ({"grain_use_elastic_iterator": True}, "grain_use_elastic_iterator=true reassigns"),
  (
    {"elastic_enabled": True, "enable_single_controller": True},
    "elastic_enabled=true changes the rows",
  ),
  ({"ici_context_parallelism": 2}, "context_parallel_load_balance=true permutes"),
  ({"ici_context_parallelism": -1}, "context_parallel_load_balance=true permutes"),
  # MaxText permutes by the axis that context_sharding names.
  (
    {"context_sharding": "expert", "ici_expert_parallelism": 2},
    "context_parallel_load_balance=true permutes",
  ),
  (
    {"enable_emergency_checkpoint": True} | EMERGENCY,
    "emergency and multi-tier checkpoints do not save",
  ),
  (
    {"enable_multi_tier_checkpointing": True, "multi_tier_checkpointing_backup_interval_minutes": 1}
    | EMERGENCY,
    "emergency and multi-tier checkpoints do not save",
  ),
  (
    {"gradient_accumulation_steps": 2, "use_tunix_gradient_accumulation": True},
    "takes a mean of the means of microbatches",
  ),
  (
    {"eval_interval": 2, "compiled_trainstep_file": "step.pickle"},
    "compiled_trainstep_file holds none",
  ),
  ({"skip_step_on_spikes": True}, "skip_step_on_spikes=true undoes the parameters"),
  (
    {"melodi_schedule": "diagonal", "dropout_rate": 0.1},
    "melodi_schedule=diagonal reads with all layers at once",
  ),
  (
    {"ici_pipeline_parallelism": 2, "base_num_decoder_layers": 4},
    "pipeline parallelism runs stages on rows out of step",
  ),
  ({"enable_diloco": True}, "enable_diloco=true splits the batch"),
  (MOE | {"capacity_factor": 1.0}, "drops tokens, and what is dropped depends"),
  (MOE, "the paper's layers have a dense feed-forward network"),
  (
    {"use_sft": True, "use_tunix_gradient_accumulation": True},
    "MaxText's post-training by Tunix (SFT, DPO, RL, distillation)",
  ),
  ({"use_dpo": True}, "MaxText's post-training by Tunix (SFT, DPO, RL, distillation)"),
  ({"attention": "vllm_rpa"}, "vLLM's attention keeps a cache of its own"),
  ({"mtp_num_layers": 1}, "multi-token prediction would run MELODI layers"),
  ({"quantization": "int8"}, "has not been shown to work with memory, and Qwix's trial "),
  ({"use_qwix_quantization": True}, "use_qwix_quantization=true has not been shown"),
  ({"use_multimodal": True}, "use_multimodal=true inserts tokens"),
  ({"trainable_position_size": 64}, "absolute position embeddings do not reach the end"),
  (
    {"use_untrainable_positional_embedding": True},
    "absolute position embeddings do not reach the end",
  ),
  ({"parameter_memory_host_offload": True}, "parameter_memory_host_offload=true is not supported"),
  ({"record_internal_nn_metrics": 1}, "looks for MaxText's own layers"),
  ({"mhc_expansion_rate": 2}, "mhc_expansion_rate and engram_layers belong to other decoders"),
  (ENGRAM, "mhc_expansion_rate and engram_layers belong to other decoders"),
  ({"attention_type": "local_sliding", "sliding_window_size": 8}, "change layers that the paper"),
  ({"attn_logits_soft_cap": 50.0}, "change layers that the paper"),
  ({"fused_qkv": True}, "fused_qkv and fused_mlp have not been shown to work with memory"),
  ({"reuse_example_batch": 1}, "reads the same tokens again and again"),
  ({"base_num_query_heads": 4}, "base_num_kv_heads must equal base_num_query_heads"),
  ({"max_target_length": 72}, "is not a whole number of windows"),
]
# Of the systems that MELODI is compared with.
SYSTEM_CASES = [
  (
    {"decoder_block": "block_recurrent", "melodi_long_term_windows_drawn": "1"},
    "is for the queues of decoder_block=melodi",
  ),
  (
    {"decoder_block": "transformer_xl", "melodi_adapter": "own"},
    "is what memory adds around a melodi_base_block",
  ),
  (
    {"decoder_block": "transformer_xl", "melodi_distill_weight": 1},
    "which is one with a melodi_base_block",
  ),
  (
    {"decoder_block": "transformer_xl", "melodi_long_term_temperature": 6},
    "is for decoder_block=melodi in the paper's layers",
  ),
  (
    {"decoder_block": "block_recurrent", "melodi_recurrent_feedback": True},
    "set melodi_schedule=windows",
  ),
]
# In modes of inference.
SERVING_CASES = [
  ({"stack_prefill_result_cache": True}, "stack_prefill_result_cache=true keeps what"),
  ({"quantize_kvcache": True}, "quantize_kvcache=true rounds keys and values"),
  ({"enable_prefix_caching": True}, "enable_prefix_caching=true cuts the keys and values"),
  ({"melodi_reset_every_window": True}, "melodi_reset_every_window=true measures"),
]
# In memory around a block of MaxText.
AROUND = {"decoder_block": "llama2", "melodi_base_block": "llama2"}
YARN = {"rope_type": "yarn", "max_position_embeddings": 64, "original_max_position_embeddings": 32}
AROUND_CASES = [
  ({"melodi_adapter": "own"}, "set load_parameters_path to that"),
  (
    {"melodi_short_term_layers": "none", "melodi_cache_tokens": 8},
    "kept in the layers of melodi_short_term_layers, which has none",
  ),
  ({"melodi_distill_weight": 1, "num_vocab_tiling": 2}, "never makes the logits that"),
  ({"melodi_distill_weight": 1, "max_target_length": 16}, "compares what stands behind the first"),
  ({"melodi_initial_temperature": 6}, "is for attention of our own"),
  (
    {"enable_dropout": True, "dropout_rate": 0.1},
    "is not supported around a stock block; set it to 0",
  ),
  (
    MOE | {"capacity_factor": -1.0, "load_balance_loss_weight": 0.01},
    "would balance summary tokens too",
  ),
  ({"attention_type": "chunk", "chunk_attn_window_size": 8}, "ask for an attention that memory"),
  ({"attention_sink": True}, "ask for an attention that memory"),
  ({"melodi_cache_tokens": 8} | YARN, "keys of a cache cannot be turned"),
  ({"melodi_sink_tokens": 2} | YARN, "keys of a cache cannot be turned"),
  ({"inhomogeneous_layer_cycle_interval": 3}, "belongs to blocks that memory cannot go around"),
]
# Of stock decoders without memory, with documents in rows and with a sliding window.
LLAMA = {"decoder_block": "llama2", "melodi_window_length": 16}
STOCK_CASES = [
  ({"dataset_type": "tfds"}, "set dataset_type=grain"),
  (
    {"dataset_type": "grain", "grain_train_files": "x", "max_target_length": 72},
    "at which documents begin",
  ),
  (
    {"enable_emergency_checkpoint": True} | EMERGENCY,
    "do not save the loader's place in the documents",
  ),
  ({"attention": "cudnn_flash_jax"}, "to keep the documents of a row apart"),
]
WINDOW_CASES = [
  ({"melodi_sink_tokens": 2, "melodi_sliding_window": 0}, "stays visible beside a"),
  ({"attention": "flash"}, "may not read; set attention=dot_product"),
  ({"attention_type": "local_sliding", "sliding_window_size": 8}, "takes the place of"),
  ({"ici_context_parallelism": 2}, "counts them in order"),
  ({"melodi_adapter": "own"}, "what memory adds to a block, and there is no memory"),
  ({"melodi_distill_weight": 1}, "learn from that block, and there is no memory"),
]


def refusal(make_config, **keys) -> str:
  """The message of the one error that a config ends with."""
  with pytest.raises(ValueError) as error:
    make_config(**keys)
  return str(error.value)
