"""Stock decoders of MaxText whose layers are ordinary, in closed form: what `sizes` need not ask.

Ordinary: two norms, grouped-query attention without biases, a gated feed-forward network.
"""

from typing import Any

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


def _matrices(config: Any) -> int:
  """Numbers of the matrices of one layer."""
  heads = 2 * config.num_query_heads + 2 * config.num_kv_heads
  ffn = (len(config.mlp_activations) + 1) * config.mlp_dim
  return config.emb_dim * (heads * config.head_dim + ffn)
