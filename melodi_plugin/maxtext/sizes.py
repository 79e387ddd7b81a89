"""Sizes of a MaxText config, measured without building the model; stock decoders too."""

import math
from typing import Any

import jax.numpy as jnp
from maxtext.utils import maxtext_utils

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.settings import as_written
from melodi_plugin.config.systems import has_base_block, is_melodi
from melodi_plugin.cost.accounting import (
  MemoryNumbers,
  decode_state,
  keys_and_values,
  memory_numbers,
  paper_memory,
  parameters,
)
from melodi_plugin.cost.sizes import Sizes
from melodi_plugin.maxtext.weights import described_shapes


def sizes(config: Any) -> Sizes:
  """Measures a MaxText config, loaded after `melodi_plugin.register()`."""
  embedding, total = _parameters(config)
  counted = stored = MemoryNumbers(0, 0)
  if is_melodi(config):
    melodi, number = MelodiConfig.from_maxtext(config), _itemsize(config.melodi_memory_dtype)
    counted = paper_memory(melodi)
    stored = MemoryNumbers(*(number * count for count in memory_numbers(melodi)))
  state, state_bytes = _decode_state(config)
  tflops = maxtext_utils.calculate_tflops_training_per_device(config, log=False)[0]
  tokens_per_device = maxtext_utils.calculate_tokens_training_per_device(config)
  per_token = tflops * 1e12 / tokens_per_device
  tokens = config.global_batch_size_to_train_on * config.max_target_length
  return Sizes(
    parameters=total,
    embedding_parameters=embedding,
    memory_short=counted.short,
    memory_long=counted.long,
    memory_all=counted.all,
    memory_short_bytes=stored.short,
    memory_long_bytes=stored.long,
    memory_bytes=stored.all,
    decode_state=state,
    decode_state_bytes=state_bytes,
    training_flops_per_token=per_token,
    training_flops_per_step=per_token * tokens,
    tokens_per_step=int(tokens),
  )


def _itemsize(dtype: Any) -> int:
  return jnp.dtype(dtype).itemsize


def _parameters(config: Any) -> tuple[int, int]:
  """Numbers of the vocabulary's tables, and all numbers; closed form for the paper's layers."""
  if is_melodi(config) and not has_base_block(config):
    table = config.vocab_size * config.emb_dim
    tables = table if config.logits_via_embedding else 2 * table
    return tables, tables + parameters(MelodiConfig.from_maxtext(config))
  counts = {name: math.prod(shape) for name, shape in described_shapes(config).items()}
  tables = (n for name, n in counts.items() if "token_embedder" in name or "logits_dense" in name)
  return sum(tables), sum(counts.values())


def _decode_state(config: Any) -> tuple[int | None, int | None]:
  """Numbers and bytes; of a stock model its keys and values, if it keeps those of all tokens."""
  cache_bytes = _itemsize(config.dtype)
  if is_melodi(config):
    state = decode_state(MelodiConfig.from_maxtext(config))
    return state.all, state.size(_itemsize(config.melodi_memory_dtype), cache_bytes)[1]
  if as_written(config.attention_type) != "global":
    return None, None
  heads, tokens = config.num_kv_heads, config.max_target_length
  numbers = keys_and_values(config.num_decoder_layers, heads, config.head_dim, tokens)
  return numbers, numbers * cache_bytes
