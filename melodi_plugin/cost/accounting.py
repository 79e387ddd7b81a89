"""Parameters, memory and decode state in closed form (SEMANTICS 1.10, 1.4, 4).

Three things are called memory, and this module keeps them apart: *past memory*, what is left of the
text before the open window (z and Z); *all decode state*, which has the open window's keys, values
and tokens as well; and what an engine keeps of a row (`row_bytes`), which also has keys and values
of past memory, so that no step makes them anew.

Past memory is counted in two ways: `memory_numbers` is what we store, `paper_memory` is what the
paper prints.  Matrix products are counted in `flops`.
"""

from typing import NamedTuple

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT

T5_TABLE = 32  # numbers per head of a layer's T5 table
_COUNTER_BYTES = 4  # of windows that memory holds, and of tokens in the open window


def parameters(config: MelodiConfig, vocab_size: int | None = None) -> int:
  """Numbers that training learns: the stack, and the tied embedding if `vocab_size` is given.

  The stack is the paper's layers, the summary table (U * D) and the final norm (D): SEMANTICS 1.10.
  """
  layers = sum(layer_parameters(config, spec) for spec in config.layers)
  stack = layers + config.summary_tokens * config.emb_dim + config.emb_dim
  return stack + (vocab_size or 0) * config.emb_dim


def layer_parameters(config: MelodiConfig, spec: LayerSpec) -> int:
  """Numbers that one layer learns (SEMANTICS 1.10, 4): attention, FFN, mixers, gate, states."""
  width, ffn, heads = config.emb_dim, config.mlp_dim, config.num_heads
  square = width * heads * config.head_dim
  t5 = config.position == "t5" and spec.has_positions
  attention = 4 * square + heads + (heads * T5_TABLE if t5 else 0)
  feed_forward = 2 * width * ffn + (ffn + width if config.ffn_bias else 0)
  total = attention + feed_forward + 2 * width + mixer_parameters(config, spec)
  if spec.mixes_long:
    total += heads * config.head_dim  # the gate
    total += heads if config.own_long_temperature else 0
  elif spec.increment and config.neighbors.count:
    total += heads
  if reads_states(config, spec):
    total += 2 * square + heads  # queries to states, and the heads that the output projection reads
  if config.system == BLOCK_RECURRENT and spec.increment:
    total += state_parameters(config, spec)
  return total


def state_parameters(config: MelodiConfig, spec: LayerSpec) -> int:
  """Numbers of the states' half of a Block-Recurrent layer (SEMANTICS 4.4)."""
  width, ffn, read = config.emb_dim, config.mlp_dim, 2 * config.num_heads * config.head_dim

  def gate(inputs: int) -> int:
    return width if config.recurrence.gate == "bias" else 2 * (inputs + 1) * width

  # Initial states, their positions, the norm; queries, keys, values and queries to tokens.
  total = 2 * spec.increment * width + width + 2 * width * read + 2 * config.num_heads
  cell = config.recurrence.cell
  if cell != "single":
    total += read * width + gate(read)
  if cell != "skip":
    inputs = read if cell == "single" else width
    total += inputs * ffn + ffn * width + gate(ffn)
  return total + (width if cell == "dual" else 0)


def mixer_parameters(config: MelodiConfig, spec: LayerSpec) -> int:
  """Numbers of the token mixers of one layer."""
  norms = 2 * config.emb_dim

  def mixer(outputs: int) -> int:
    return (config.mixer_inputs + 1) * outputs

  total = mixer(spec.increment) if spec.mixes_long else 0
  if spec.mixes_summary:
    total += mixer(config.summary_tokens) + norms
  if spec.mixes_short:
    total += mixer(spec.mixed_tokens) + (norms if spec.residual_short else 0)
  return total


def reads_states(config: MelodiConfig, spec: LayerSpec) -> bool:
  """Whether tokens of this layer attend to states of a Block-Recurrent layer."""
  return config.system == BLOCK_RECURRENT and bool(spec.increment or config.recurrence.feedback)


def memory_parameters(config: MelodiConfig) -> int:
  """Numbers that memory adds to a stock model: summary table, mixers, offsets, gates."""
  heads = config.num_attentions * config.num_heads
  total = config.summary_tokens * config.emb_dim
  for spec in config.layers:
    total += mixer_parameters(config, spec)
    total += heads if spec.mixed_tokens else 0
    total += heads * config.head_dim if spec.increment else 0
  return total


class MemoryNumbers(NamedTuple):
  """Stored numbers of one batch row, whatever the length of its document (SEMANTICS 1.4, 1.10)."""

  short: int  # rewritten at every window: z, a cache, in the paper's count also states
  long: int  # the queues: Z

  @property
  def all(self) -> int:
    """Short and long: what a row carries from segment to segment."""
    return self.short + self.long


def memory_numbers(config: MelodiConfig) -> MemoryNumbers:
  """What is stored of one batch row: tokens (SEMANTICS 1.10, last line), or keys and values."""
  verbatim = sum(spec.verbatim_tokens for spec in config.layers)
  mixed = sum(spec.mixed_tokens for spec in config.layers)
  return MemoryNumbers(
    short=mixed * config.emb_dim + verbatim * config.cache_width,
    long=sum(spec.queue_tokens for spec in config.layers) * config.long_width,
  )


def paper_memory(config: MelodiConfig) -> MemoryNumbers:
  """Memory as the paper counts it, in all layers of the config.

  MELODI: S * D numbers per layer, and keys and values of the queue, 2 * M * D.  Other systems: keys
  and values of caches, 2 * W * D per layer, and of the queue, 2 * M * D; a recurrent layer counts
  for its R * D states, which are short-term memory, and not for its cache.  A cache around a stock
  block, which the paper does not have, counts for its keys and values as they are, and so does a
  queue of them.
  """
  short = long = 0
  pair = 2 * config.emb_dim if config.base_block == PAPER else config.cache_width
  for spec in config.layers:
    if config.system == BLOCK_RECURRENT and spec.increment:
      short += spec.queue_tokens * config.emb_dim
    else:
      short += spec.mixed_tokens * config.emb_dim + spec.verbatim_tokens * pair
      pairs = config.long_width if config.long_term_pairs else 2 * config.emb_dim
      long += spec.queue_tokens * pairs
  return MemoryNumbers(short, long)


class DecodeState(NamedTuple):
  """Stored numbers of one batch row that decodes."""

  past: MemoryNumbers  # what is left of the text before the open window
  window: int  # keys and values of the open window
  entries: int  # tokens of the open window as they are, for mixers, a cache or a verbatim queue

  @property
  def all(self) -> int:
    """All numbers together."""
    return self.past.all + self.window + self.entries

  def size(self, memory_bytes: int = 4, cache_bytes: int = 2) -> tuple[int, int]:
    """Bytes of past memory and of all decode state."""
    past = self.past.all * memory_bytes
    return past, past + (self.window + self.entries) * cache_bytes


def decode_state(config: MelodiConfig) -> DecodeState:
  """What a row has to keep in order to go on, whatever the length of its document.

  Keys and values of past memory follow from it, so they are not counted; see `row_bytes`.
  """
  # Once for all of a layer: what its mixers read, or what caches and verbatim queues store.  Pairs
  # are keys and values, and states are made of these.
  keeping = sum(
    spec.mixes_summary or spec.mixes_short or spec.mixes_long
    if spec.mixed
    else spec.short_tokens + (spec.increment if config.system != BLOCK_RECURRENT else 0) > 0
    and not config.stores_pairs
    for spec in config.layers
  )
  entries = keeping * config.window_length * config.emb_dim
  heads, tokens = config.stored_heads, config.window_length
  return DecodeState(
    past=memory_numbers(config),
    window=keys_and_values(config.num_layers, heads, config.head_dim, tokens),
    entries=entries,
  )


def row_bytes(config: MelodiConfig, memory_bytes: int = 4, cache_bytes: int = 2) -> int:
  """Bytes of a row of `decoding.OpenRows`: what an engine keeps of it on the device.

  Beside decode state: keys and values of past memory, and which tokens are visible.
  """
  heads, window = config.stored_heads, config.window_length
  slots = sum(spec.short_tokens + spec.queue_tokens for spec in config.layers)
  kept = keys_and_values(1, heads, config.head_dim, slots)
  if config.system == BLOCK_RECURRENT:  # states as activations, beside those in memory
    kept += memory_numbers(config).long
  visible = slots + config.num_layers * window
  state = decode_state(config).size(memory_bytes, cache_bytes)[1]
  return state + kept * cache_bytes + visible + 2 * _COUNTER_BYTES


def keys_and_values(layers: int, heads: int, head_dim: int, tokens: int) -> int:
  """Numbers in the keys and values of some tokens; a stock model keeps those of its whole text."""
  return 2 * layers * heads * head_dim * tokens
