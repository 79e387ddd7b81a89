"""Settings that would silently break memory are refused, in a sentence, and only for MELODI."""

import inspect
import pathlib
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from maxtext.configs.types import RematPolicy
from maxtext.layers.nnx_decoders import NNXDecoder

from integration_tests import running
from melodi_plugin.maxtext.decoders.stock_block import PARTS
from melodi_plugin.maxtext.decoders.stock_refusals import (
  NEEDS_MEMORY,
  STOCK_ROWS,
  STOCK_WINDOW,
  check_stock,
)
from melodi_plugin.maxtext.refusals.blocks import (
  NO_MEMORY,
  PAPER_BLOCK,
  SERVING,
  STOCK_BLOCK,
  STOCK_BLOCKS,
)
from melodi_plugin.maxtext.refusals.every_block import EVERY_BLOCK
from melodi_plugin.maxtext.refusals.remat import CUSTOM, POLICIES
from melodi_plugin.maxtext.steps import remat_named

EMERGENCY = {"local_checkpoint_directory": "x", "local_checkpoint_period": 1}
EMERGENCY |= {"enable_checkpointing": True}
MOE = {"num_experts": 4, "base_moe_mlp_dim": 64}
ENGRAM = {"engram_layers": [1], "engram_vocab_bases": [64, 64], "engram_max_ngram_size": 3}
ENGRAM |= {"hf_access_token": "x", "tokenizer_path": "x"}

# The settings, and the words of the refusal's sentence by which it is known.
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
# The same for memory around a block of MaxText.
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
SERVING_CASES = [
  ({"stack_prefill_result_cache": True}, "stack_prefill_result_cache=true keeps what"),
  ({"quantize_kvcache": True}, "quantize_kvcache=true rounds keys and values"),
  ({"enable_prefix_caching": True}, "enable_prefix_caching=true cuts the keys and values"),
  ({"melodi_reset_every_window": True}, "melodi_reset_every_window=true measures"),
]
# MaxText's post-training commands read these, without setting use_sft or use_dpo in all of them.
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
POST_TRAINING = ("sft", "dpo", "rl", "distillation")
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
WITHOUT_MEMORY = STOCK_WINDOW + NEEDS_MEMORY
PRE_TRAINING = running.TINY | {"eval_interval": -1, "model_name": "default"}

each_case = pytest.mark.parametrize(
  "settings, words", CASES, ids=[",".join(settings) for settings, _ in CASES]
)


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def refusal(make_config, **keys) -> str:
  """The message of the one error that a config ends with."""
  with pytest.raises(ValueError) as error:
    make_config(**keys)
  return str(error.value)


@each_case
def test_setting_is_refused_in_one_sentence_that_names_it(settings, words):
  message = refusal(running.melodi_config, **settings)
  assert words in message
  assert message.startswith("decoder_block: melodi")
  assert "\n" not in message and message.endswith(".")
  # Values are written as in a config file, not as Python objects.
  assert "{" not in message and "Type." not in message


@pytest.mark.slow
@each_case
def test_setting_is_not_refused_without_melodi(settings, words):
  running.initialize(decoder_block="llama2", **settings)


@pytest.mark.parametrize(
  "settings, words", AROUND_CASES, ids=[",".join(settings) for settings, _ in AROUND_CASES]
)
def test_setting_is_refused_around_a_stock_block(settings, words):
  message = refusal(running.melodi_config, **(AROUND | settings))
  assert words in message
  assert message.startswith("decoder_block: melodi")
  assert "\n" not in message and message.endswith(".")
  assert "{" not in message and "Type." not in message


@pytest.mark.parametrize(
  "settings, words", [*SYSTEM_CASES, ({"decoder_block": "transformer_xl", "packing": True}, "anew")]
)
def test_other_systems_are_refused_under_their_own_name(settings, words):
  message = refusal(running.initialize, **settings, melodi_window_length=16)
  assert words in message
  assert message.startswith(f"decoder_block: {settings['decoder_block']} cannot run: ")


@pytest.mark.parametrize(
  "settings, words", STOCK_CASES, ids=[",".join(settings) for settings, _ in STOCK_CASES]
)
def test_setting_is_refused_for_a_stock_decoder_in_rows(settings, words):
  keys = LLAMA | {"melodi_documents_in_rows": True}
  message = refusal(running.initialize, **(keys | settings))
  assert message.startswith("decoder_block: llama2 cannot run: ") and words in message
  assert "\n" not in message and message.endswith(".") and "{" not in message
  running.initialize(**(keys | settings | {"melodi_documents_in_rows": False}))


@pytest.mark.parametrize(
  "settings, words", WINDOW_CASES, ids=[",".join(settings) for settings, _ in WINDOW_CASES]
)
def test_setting_is_refused_for_a_sliding_window(settings, words):
  message = refusal(running.initialize, **({"melodi_sliding_window": 8} | LLAMA | settings))
  assert message.startswith("decoder_block: llama2 cannot run: ") and words in message
  assert "\n" not in message and message.endswith(".") and "{" not in message


@pytest.mark.parametrize(
  "block, why",
  [
    ("deepseek", "compressed latents (MLA)"),
    ("qwen3_next", "most of its layers are gated delta nets"),
    ("gemma2", "some of them have a window of their own"),
    ("olmo3", "no test has shown that they can"),
  ],
)
def test_block_without_a_place_for_a_sliding_window_is_refused_with_the_reason(block, why):
  keys = {"decoder_block": block, "melodi_sliding_window": 8, "melodi_sink_tokens": 0}
  keys |= {"melodi_distill_weight": 0, "melodi_adapter": ""}
  keys |= {"melodi_documents_in_rows": False, "attention": "dot_product"}
  keys |= {"attention_type": "global", "context_parallel_load_balance": False}
  with pytest.raises(ValueError, match="set it to 0, or decoder_block to one of llama2") as error:
    check_stock(SimpleNamespace(**keys))
  assert why in str(error.value)


def test_every_refusal_has_a_case():
  cases = CASES + AROUND_CASES + SYSTEM_CASES + SERVING_CASES + STOCK_CASES + WINDOW_CASES
  known = [words for _, words in cases]
  unknown = [
    r.sentence
    for r in EVERY_BLOCK + PAPER_BLOCK + STOCK_BLOCK + SERVING + STOCK_ROWS + WITHOUT_MEMORY
    if not any(words in r.sentence for words in known)
  ]
  assert not unknown


def test_remat_policies_are_those_of_maxtext():
  source = inspect.getsource(NNXDecoder.get_remat_policy)
  known = re.findall(r"remat_policy (?:==|in) (.*):", source)
  assert set(re.findall(r'"(\w+)"', " ".join(known))) == {CUSTOM, *POLICIES} - {"none", "full"}
  assert {policy.value for policy in RematPolicy} <= {CUSTOM, *POLICIES}
  for name in POLICIES:
    if "quantization" not in name:  # of which MaxText warns
      assert remat_named(name)
  with pytest.raises(ValueError, match="most is no remat policy"):
    remat_named("most")


def test_what_the_papers_layers_cannot_have_is_not_refused_around_a_stock_block():
  running.melodi_config(**AROUND, base_num_query_heads=4, attn_logits_soft_cap=50.0)


@pytest.mark.parametrize(
  "block, why",
  [
    ("deepseek", "its attention keeps compressed latents (MLA), not keys and values of tokens"),
    ("gpt_oss", "its attention has sinks, which would have to be shared with memory"),
    ("lama2", "no test has shown that it can"),
  ],
)
def test_block_that_memory_cannot_go_around_is_refused_with_the_reason(block, why):
  message = refusal(running.melodi_config, melodi_base_block=block)
  assert (
    f"melodi_base_block={block}: memory cannot go around this block, because {why}; " in message
  )
  assert f"choose one of {', '.join(STOCK_BLOCKS)}, or 'paper'." in message


def test_every_block_without_memory_is_one_of_maxtext():
  from maxtext.common.common_types import DecoderBlockType

  blocks = {member.value for member in DecoderBlockType} - {running.MELODI["decoder_block"]}
  assert {*STOCK_BLOCKS, *NO_MEMORY} <= blocks


def test_a_block_that_can_be_built_is_not_refused():
  assert {*STOCK_BLOCKS} == PARTS.keys()


def test_other_system_does_not_go_around_a_stock_block():
  message = refusal(running.initialize, decoder_block="transformer_xl", melodi_base_block="llama2")
  assert "leave melodi_base_block at 'paper'" in message


def test_base_block_that_contradicts_decoder_block_is_refused():
  message = refusal(running.melodi_config, decoder_block="llama2", melodi_base_block="qwen3")
  assert (
    "melodi_base_block=qwen3 contradicts decoder_block=llama2, which model_name or your config "
    "sets; set melodi_base_block=llama2." in message
  )


@pytest.mark.parametrize("where", ["file", "command line"])
def test_model_name_is_refused_where_it_would_undo_the_papers_layers(tmp_path, where):
  named = {"model_name": "llama2-7b"}
  keys = {"decoder_block": "melodi"} | (named if where == "file" else {})
  file = running.write_yaml(tmp_path / "own.yml", **keys)
  with pytest.raises(ValueError, match="brings layers of its own") as error:
    running.from_yaml(file, **({} if where == "file" else named))
  assert str(error.value) == (
    "model_name=llama2-7b brings layers of its own, so decoder_block=melodi would be lost; set "
    "melodi_base_block to the decoder_block of that model, or leave model_name out."
  )


def test_base_block_alone_is_enough():
  config = running.melodi_config(melodi_base_block="llama2")  # decoder_block is melodi here
  assert config.decoder_block.value == "llama2"


def test_settings_of_a_sentence_are_those_of_the_config():
  message = refusal(running.melodi_config, max_target_length=72)
  assert "max_target_length=72" in message and "melodi_window_length=16" in message
  assert "quantization=int8" in refusal(running.melodi_config, quantization="int8")
  keys = {"eval_interval": 3, "compiled_trainstep_file": "step.pickle"}
  assert "eval_interval=3" in refusal(running.melodi_config, **keys)


@pytest.mark.parametrize("name", POST_TRAINING)
def test_post_training_is_refused(name):
  message = refusal(post_training_config, name=name, **running.MELODI)
  assert "MaxText's post-training" in message


@pytest.mark.parametrize("name", POST_TRAINING)
def test_post_training_is_not_refused_without_melodi(name):
  post_training_config(name, decoder_block="llama2")


def post_training_config(name: str, **keys):
  """The config that MaxText's command for `name` makes, of a tiny model."""
  from maxtext.configs import pyconfig, types

  file = pathlib.Path(pyconfig.__file__).parent / "post_train" / f"{name}.yml"
  return pyconfig.initialize(
    ["", str(file)],
    config_class=types.RLConfig if name == "rl" else types.MaxTextConfig,
    override_model_config=True,
    **(PRE_TRAINING | keys),
  )


def model_of(mode: str, **keys) -> nnx.Module:
  """The tiny model as MaxText's engine makes it, without its arrays."""
  from maxtext.utils import model_creation_utils

  config, devices = running.melodi_config(**keys), jax.devices()[:1]
  make = model_creation_utils.get_nnx_create_model_fn(config, devices=devices, model_mode=mode)
  return nnx.eval_shape(make)


@pytest.mark.parametrize(
  "settings, words", SERVING_CASES, ids=[",".join(settings) for settings, _ in SERVING_CASES]
)
@pytest.mark.parametrize("mode", ["prefill", "autoregressive"])
def test_setting_is_refused_in_modes_of_inference_only(mode, settings, words):
  message = refusal(model_of, mode=mode, **settings)
  assert message.startswith("decoder_block: melodi cannot run: ") and words in message
  assert "\n" not in message and message.endswith(".") and "{" not in message
  model_of("train", **settings)


def test_model_of_one_mode_is_refused_in_another():
  from maxtext.utils import model_creation_utils

  config, devices = running.melodi_config(), jax.devices()[:1]
  model = model_creation_utils.from_config(config, devices=devices, rngs=nnx.Rngs(0))
  tokens = jnp.zeros((8, 1), jnp.int32)
  with pytest.raises(ValueError) as error:
    model(tokens, tokens, model_mode="autoregressive")
  assert str(error.value) == (
    "decoder_block: melodi was made for MaxText's 'train' mode and cannot run in 'autoregressive', "
    "for which it has no state; make the model with model_mode='autoregressive'."
  )
