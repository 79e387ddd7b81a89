"""Stock decoders of MaxText whose layers are ordinary, in closed form: what `sizes` need not ask.

Ordinary: two norms, grouped-query attention without biases, a gated feed-forward network.  What a
row keeps while it decodes is also known of Gated DeltaNets.
"""

from typing import Any

from melodi_plugin.config.settings import as_written
from melodi_plugin.cost.accounting import keys_and_values

DELTA_NETS = ("qwen3_next", "qwen3_5")  # blocks of which only every n-th layer attends

QK_NORMS = {"llama2": False, "qwen3": True}  # by block: norms of queries and keys
# Settings that give these blocks other parameters or products, and the values that do not.
_ORDINARY = {
  "attention_sink": False,
  "attention_type": "global",
  "engram_layers": [],
  "fused_mlp": False,
  "fused_qkv": False,
  "mhc_expansion_rate": 1,
  "mtp_num_layers": 0,
  "num_experts": 1,
  "quantization": "",
  "share_kv_projections": False,
  "trainable_position_size": -1,
  "use_dpo": False,
  "use_multimodal": False,
  "use_qwix_quantization": False,
}


def is_ordinary(config: Any) -> bool:
  """Whether a config, read by attribute, asks for a stock block that is counted here."""
  known = QK_NORMS.get(config.decoder_block) == config.use_qk_norm
  return known and all(getattr(config, key) == value for key, value in _ORDINARY.items())


def embedding_parameters(config: Any) -> int:
  """Numbers of the vocabulary's tables: the embedding, and an output head that is not tied."""
  return (1 if config.logits_via_embedding else 2) * config.vocab_size * config.emb_dim


def stock_parameters(config: Any) -> int:
  """Numbers of the layers and the final norm of an ordinary block."""
  norms = 2 * config.emb_dim + (2 * config.head_dim if QK_NORMS[config.decoder_block] else 0)
  return config.num_decoder_layers * (norms + _matrices(config)) + config.emb_dim


def stock_weights(config: Any) -> float:
  """Operations of a training step of one row: products with parameters, as MaxText counts them."""
  head = config.emb_dim * config.vocab_size
  return 6.0 * config.max_target_length * (config.num_decoder_layers * _matrices(config) + head)


def stock_attention(config: Any) -> float:
  """Operations of a training step of one row: the causal half of attention, as MaxText counts."""
  width = config.num_query_heads * config.head_dim
  return 6.0 * config.num_decoder_layers * config.max_target_length**2 * width


def stock_state(config: Any) -> int | None:
  """Numbers that a row keeps in order to go on, after `max_target_length` tokens; None if unknown.

  Keys and values of all tokens, or of sinks and sliding window; the states of Gated DeltaNets.
  """
  if as_written(config.attention_type) != "global":
    return None
  layers, tokens, states = config.num_decoder_layers, config.max_target_length, 0
  if config.melodi_sliding_window:
    tokens = min(tokens, config.melodi_sliding_window + config.melodi_sink_tokens)
  if as_written(config.decoder_block) in DELTA_NETS:
    attending = layers // config.inhomogeneous_layer_cycle_interval
    states = (layers - attending) * _delta_net_state(config)
    layers = attending
  return keys_and_values(layers, config.num_kv_heads, config.head_dim, tokens) + states


def _delta_net_state(config: Any) -> int:
  """Numbers of one layer: a matrix per head of values, and the last inputs of the convolution."""
  keys = config.gdn_num_key_heads * config.gdn_key_head_dim
  values = config.gdn_num_value_heads * config.gdn_value_head_dim
  return values * config.gdn_key_head_dim + (config.gdn_conv_kernel_dim - 1) * (2 * keys + values)


def _matrices(config: Any) -> int:
  """Numbers of the matrices of one layer."""
  heads = 2 * config.num_query_heads + 2 * config.num_kv_heads
  ffn = (len(config.mlp_activations) + 1) * config.mlp_dim
  return config.emb_dim * (heads * config.head_dim + ffn)
