"""Parameters, memory and decode state in closed form (SEMANTICS 1.10, 1.4).

Two things are called memory in papers, and this module keeps them apart: *past memory*, what is
left of the text before the open window (z and Z), and *all decode state*, which has the open
window's keys, values and mixer sums as well.
"""

from typing import NamedTuple

from melodi_plugin.config import PAPER, LayerSpec, MelodiConfig

T5_TABLE = 32  # numbers per head of a layer's T5 table


def parameters(config: MelodiConfig, vocab_size: int | None = None) -> int:
  """Numbers that training learns: the stack, and the tied embedding if `vocab_size` is given.

  The stack is the paper's layers, the summary table (U * D) and the final norm (D): SEMANTICS 1.10.
  """
  layers = sum(layer_parameters(config, spec) for spec in config.layers)
  stack = layers + config.summary_tokens * config.emb_dim + config.emb_dim
  return stack + (vocab_size or 0) * config.emb_dim


def layer_parameters(config: MelodiConfig, spec: LayerSpec) -> int:
  """Numbers that one layer learns (SEMANTICS 1.10): attention, FFN, mixers, gate."""
  width, ffn, heads = config.emb_dim, config.mlp_dim, config.num_heads
  all_heads, norms = heads * config.head_dim, 2 * width
  attention = 4 * width * all_heads + heads + (heads * T5_TABLE if config.position == "t5" else 0)
  feed_forward = 2 * width * ffn + ffn + width
  gate = all_heads if spec.increment else 0
  return attention + feed_forward + norms + gate + mixer_parameters(config, spec)


def mixer_parameters(config: MelodiConfig, spec: LayerSpec) -> int:
  """Numbers of the token mixers of one layer."""
  norms = 2 * config.emb_dim

  def mixer(outputs: int) -> int:
    return (config.mixer_inputs + 1) * outputs

  total = mixer(spec.increment) if spec.increment else 0
  if spec.mixes_summary:
    total += mixer(config.summary_tokens) + norms
  if spec.mixes_short:
    total += mixer(spec.short_tokens) + (norms if spec.residual_short else 0)
  return total


def memory_parameters(config: MelodiConfig) -> int:
  """Numbers that memory adds to a stock model: summary table, mixers, offsets, gates."""
  heads = config.num_attentions * config.num_heads
  total = config.summary_tokens * config.emb_dim
  for spec in config.layers:
    total += mixer_parameters(config, spec)
    total += heads if spec.short_tokens else 0
    total += heads * config.head_dim if spec.increment else 0
  return total


class MemoryNumbers(NamedTuple):
  """Stored numbers of one batch row, whatever the length of its document (SEMANTICS 1.4, 1.10)."""

  short: int  # S * D in every layer with short-term memory
  long: int  # M * D in every long-term layer

  @property
  def all(self) -> int:
    """Both kinds: what a row carries from segment to segment."""
    return self.short + self.long


def memory_numbers(config: MelodiConfig) -> MemoryNumbers:
  """Short-term and long-term memory of one batch row (SEMANTICS 1.10, last line)."""
  return MemoryNumbers(
    short=sum(spec.short_tokens for spec in config.layers) * config.emb_dim,
    long=sum(spec.queue_tokens for spec in config.layers) * config.emb_dim,
  )


class DecodeState(NamedTuple):
  """Stored numbers of one batch row that decodes."""

  past: MemoryNumbers  # what is left of the text before the open window
  window: int  # keys and values of the open window (of the whole text, for a stock model)
  mixers: int  # sums of the open window for its mixers

  @property
  def all(self) -> int:
    """Everything."""
    return self.past.all + self.window + self.mixers

  def size(self, memory_bytes: int = 4, cache_bytes: int = 2) -> tuple[int, int]:
    """Bytes of past memory and of all decode state; mixer sums have the cache's dtype."""
    past = self.past.all * memory_bytes
    return past, past + (self.window + self.mixers) * cache_bytes


def decode_state(config: MelodiConfig) -> DecodeState:
  """What a row keeps to go on with, whatever the length of its document.

  Keys and values of past memory follow from it, so they are not counted; an engine may keep them.
  """
  mixed = sum(
    config.summary_tokens * spec.mixes_summary
    + spec.short_tokens * spec.mixes_short
    + spec.increment
    for spec in config.layers
  )
  return DecodeState(
    past=memory_numbers(config),
    window=_cache(config, config.window_length),
    mixers=mixed * config.emb_dim,
  )


def stock_decode_state(config: MelodiConfig, tokens: int) -> DecodeState:
  """What the stock model of the same sizes keeps after `tokens` tokens: their keys and values."""
  if config.base_block == PAPER:
    raise ValueError("melodi_base_block=paper has no stock model to compare with.")
  return DecodeState(MemoryNumbers(0, 0), _cache(config, tokens), 0)


def _cache(config: MelodiConfig, tokens: int) -> int:
  return 2 * config.num_layers * config.stored_heads * config.head_dim * tokens
