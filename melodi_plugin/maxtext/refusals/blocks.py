"""Of the paper's layers, of those around a stock block, and of serving."""

from typing import Any

from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.settings import as_written
from melodi_plugin.config.systems import (
  BLOCK_RECURRENT,
  system_of,
)
from melodi_plugin.maxtext.refusals.every_block import EVERY_BLOCK
from melodi_plugin.maxtext.refusals.refusal import Refusal, is_set, refuse


def _other_attention(config: Any) -> bool:
  switches = ("use_post_attn_norm", "use_post_ffw_norm")
  own = as_written(config.attention_type) == "global" and not config.attn_logits_soft_cap
  return not own or any(getattr(config, switch) for switch in switches)


PAPER_BLOCK = (
  Refusal(
    lambda c: c.num_experts > 1,
    "num_experts={c.num_experts}: the paper's layers have a dense feed-forward network; set it "
    "to 1.",
  ),
  Refusal(
    _other_attention,
    "attention_type, attn_logits_soft_cap, use_post_attn_norm and use_post_ffw_norm change layers "
    "that the paper does not have; leave them at their defaults.",
  ),
  Refusal(
    lambda c: c.num_kv_heads != c.num_query_heads,
    "base_num_kv_heads must equal base_num_query_heads, since the paper's attention has as many "
    "key heads as query heads; they are {c.num_kv_heads} and {c.num_query_heads}.",
  ),
  Refusal(
    lambda c: (
      system_of(c) == BLOCK_RECURRENT
      and c.melodi_recurrent_feedback
      and c.melodi_schedule != "windows"
    ),
    "melodi_recurrent_feedback=true lets every layer read what the window before left in one of "
    "them; set melodi_schedule=windows.",
  ),
)

STOCK_BLOCK = (
  Refusal(
    lambda c: c.melodi_adapter and not c.load_parameters_path,
    "melodi_adapter={c.melodi_adapter} is what memory adds to a stock checkpoint; set "
    "load_parameters_path to that.",
  ),
  Refusal(
    lambda c: c.melodi_distill_weight > 0 and c.num_vocab_tiling > 1,
    "num_vocab_tiling={c.num_vocab_tiling} never makes the logits that melodi_distill_weight="
    "{c.melodi_distill_weight} compares; set it to 1, and melodi_distill_top_k to save memory.",
  ),
  Refusal(
    lambda c: c.melodi_distill_weight > 0 and c.max_target_length <= c.melodi_window_length,
    "melodi_distill_weight={c.melodi_distill_weight} compares what stands behind the first window, "
    "and max_target_length={c.max_target_length} is one window; raise that.",
  ),
  Refusal(
    lambda c: (
      (c.melodi_cache_tokens > 0 or c.melodi_sink_tokens > 0) and c.rope_type.startswith("yarn")
    ),
    "rope_type={c.rope_type.value} looks positions up in a table, so keys of a cache cannot be "
    "turned on to their next place; set melodi_cache_tokens and melodi_sink_tokens to 0.",
  ),
  Refusal(
    lambda c: c.enable_dropout and c.dropout_rate > 0,
    "dropout_rate={c.dropout_rate} is not supported around a stock block; set it to 0.",
  ),
  Refusal(
    lambda c: c.num_experts > 1 and c.load_balance_loss_weight > 0,
    "load_balance_loss_weight={c.load_balance_loss_weight} would balance summary tokens too; set "
    "it to 0.",
  ),
  Refusal(
    lambda c: as_written(c.attention_type) not in ("global", "local_sliding") or c.attention_sink,
    "attention_type={c.attention_type} and attention_sink={c.attention_sink} ask for an attention "
    "that memory cannot join; leave them at their defaults.",
  ),
  Refusal(
    lambda c: c.inhomogeneous_layer_cycle_interval != 1,
    "inhomogeneous_layer_cycle_interval={c.inhomogeneous_layer_cycle_interval} belongs to blocks "
    "that memory cannot go around; set it to 1.",
  ),
)

# What MaxText's engine cannot do with a state that has read all tokens in one.
SERVING = (
  Refusal(
    is_set("stack_prefill_result_cache"),
    "stack_prefill_result_cache=true keeps what MaxText's own layers cache and loses all other "
    "state; set it to false.",
  ),
  Refusal(
    is_set("quantize_kvcache"),
    "quantize_kvcache=true rounds keys and values of MaxText's caches, and memory is not in them; "
    "set it to false.",
  ),
  Refusal(
    is_set("enable_prefix_caching"),
    "enable_prefix_caching=true cuts the keys and values of a longer text at the end of a prefix, "
    "and memory cannot forget the rest of it; set it to false.",
  ),
  Refusal(
    is_set("melodi_reset_every_window"),
    "melodi_reset_every_window=true measures what text is worth without memory, and a text that is "
    "continued needs it; set it to false.",
  ),
)

STOCK_BLOCKS = ("llama2", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "gemma2", "gemma3")
NO_MEMORY = {
  **dict.fromkeys(
    ("deepseek", "deepseek4"),
    "its attention keeps compressed latents (MLA), not keys and values of tokens",
  ),
  **dict.fromkeys(
    ("qwen3_next", "qwen3_5"),
    "most of its layers are gated delta nets, which have no attention core to replace",
  ),
  "llama4": "its layers attend in chunks and without positions in turn",
  "gpt_oss": "its attention has sinks, which would have to be shared with memory",
  "gpt3": "it embeds absolute positions",
  **dict.fromkeys(("simple", "simple_mlp"), "it has no attention"),
  **dict.fromkeys(
    ("gemma4", "gemma4_small"), "its layers share keys and values or recompute inside the block"
  ),
}


def check_base_block(block: str) -> None:
  """Raises ValueError if memory cannot go around a block, with the reason."""
  if block not in STOCK_BLOCKS:
    why = NO_MEMORY.get(block, "no test has shown that it can")
    raise ValueError(
      f"melodi_base_block={block}: memory cannot go around this block, because {why}; choose one "
      f"of {', '.join(STOCK_BLOCKS)}, or 'paper'."
    )


def check(config: Any) -> None:
  """Raises ValueError with the sentence of the first refusal that holds for a MaxText config."""
  own = PAPER_BLOCK if config.melodi_base_block == PAPER else STOCK_BLOCK
  refuse(config, EVERY_BLOCK + own)


def check_serving(config: Any) -> None:
  """The same for what breaks memory only in MaxText's modes of inference."""
  refuse(config, SERVING)


def check_mesh(mesh: Any) -> None:
  """Raises ValueError where a device that does not read its rows alone gets wrong gradients.

  XLA's partitioner does so where rows lie over two axes and kernels of keys and values over both
  the second of them and a third: forward passes are right (integration_tests/mesh_test.py).
  """
  if all(mesh.shape.get(axis, 1) > 1 for axis in ("data", "fsdp", "tensor")):
    raise ValueError(
      "parallelism over data, fsdp and tensor together gives wrong gradients unless every device "
      "reads its rows alone; set melodi_schedule=layers, or one of the three to 1."
    )
