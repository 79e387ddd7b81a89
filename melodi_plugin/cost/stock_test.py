"""What a stock decoder keeps of its text, in closed form."""

from types import SimpleNamespace

import pytest

from melodi_plugin.cost.stock import stock_state

LLAMA = {
  "decoder_block": "llama2",
  "attention_type": "global",
  "num_decoder_layers": 4,
  "num_kv_heads": 2,
  "head_dim": 8,
  "max_target_length": 100,
  "melodi_sliding_window": 0,
  "melodi_sink_tokens": 0,
}
PAIR = 2 * 4 * 2 * 8  # of one token, in all layers
NEXT = {
  "decoder_block": "qwen3_next",
  "inhomogeneous_layer_cycle_interval": 4,
  "gdn_num_key_heads": 2,
  "gdn_num_value_heads": 4,
  "gdn_key_head_dim": 3,
  "gdn_value_head_dim": 5,
  "gdn_conv_kernel_dim": 4,
}


@pytest.mark.parametrize(
  "changed, numbers",
  [
    ({}, 100 * PAIR),
    ({"melodi_sliding_window": 16, "melodi_sink_tokens": 4}, 20 * PAIR),
    ({"melodi_sliding_window": 98, "melodi_sink_tokens": 4}, 100 * PAIR),
    # One layer attends; three have a matrix per head of values, and three inputs of q, k and v.
    (NEXT, 100 * PAIR // 4 + 3 * (4 * 3 * 5 + 3 * (2 * 6 + 20))),
    ({"attention_type": "local_sliding"}, None),
  ],
  ids=["all tokens", "sinks and window", "a window of nearly all", "delta nets", "unknown"],
)
def test_state_of_a_row(changed, numbers):
  assert stock_state(SimpleNamespace(**(LLAMA | changed))) == numbers
