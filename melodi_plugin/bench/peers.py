"""The systems that `bench systems` puts side by side, as keys; in what they share, sizes.

At equal sizes: layers, width, heads, feed-forward network, windows and segments are those of the
config, and a layer with a queue or with states is one of its layers.
"""

import math
from typing import Any

YARDSTICK = "transformer_xl"  # what times and operations are compared with
STOCK = "stock"
_CELLS = [(cell, gate) for cell in ("skip", "dual", "single") for gate in ("bias", "lstm")]
NAMES = (
  YARDSTICK,
  "melodi",
  "memorizing_dense",
  "memorizing_knn",
  *(f"recurrent_{cell}_{gate}" for cell, gate in _CELLS),
  STOCK,
)
# Of the models that are measured where no config is given: narrow, for a CPU.
NARROW = (
  "base_output_directory=runs",
  "decoder_block=melodi",
  "base_emb_dim=256",
  "base_num_query_heads=4",
  "base_num_kv_heads=4",
  "head_dim=64",
  "base_mlp_dim=1024",
  "vocab_size=1024",
  "dtype=float32",
  "packing=false",
  "melodi_summary_tokens=32",
  "melodi_short_term_tokens=32",
  "melodi_long_term_increment=16",
)
# Of `bench systems`: every window, memory and state is the paper's by four.
SMALL = (
  *NARROW,
  "base_num_decoder_layers=4",
  "logits_via_embedding=true",
  "max_target_length=512",
  "per_device_batch_size=2",
  "melodi_window_length=128",
  "melodi_long_term_windows=32",
  "melodi_recurrent_states=128",
)
_NEIGHBORS = 32  # as in the Memorizing Transformer's paper, where it divides W


def with_windows(length: int) -> str:
  """The name of a Transformer-XL whose windows are not those of the others."""
  return f"{YARDSTICK}, windows of {length:,}"


def keys_of(name: str, config: Any) -> list[str]:
  """What makes a system of NAMES, but the stock decoder, of a config with memory."""
  if name == YARDSTICK:
    return ["decoder_block=transformer_xl"]
  if name == "memorizing_dense":
    return ["decoder_block=memorizing_transformer", "melodi_neighbors=0"]
  if name == "memorizing_knn":
    count = config.melodi_neighbors or math.gcd(_NEIGHBORS, config.melodi_window_length)
    return ["decoder_block=memorizing_transformer", f"melodi_neighbors={count}"]
  if name.startswith("recurrent_"):
    _, cell, gate = name.split("_")
    own = (f"melodi_recurrent_cell={cell}", f"melodi_recurrent_gate={gate}")
    return ["decoder_block=block_recurrent", *own]
  return ["decoder_block=melodi"]
