"""Floating-point operations of the matrix products of a training step, in closed form.

The count is of what the program computes: a product of (a, b) and (b, c) is 2 * a * b * c
operations, and attention logits that a mask hides are included.  Left out are, as in MaxText's own
numbers, what rematerialisation computes again, and norms, softmax and other elementwise work.

Training computes a product once, and once more for every operand that a gradient passes: three
times, but for a Memorizing Transformer, whose queue learns nothing.
"""

from typing import Any, NamedTuple

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT
from melodi_plugin.cost.accounting import reads_states


class Products(NamedTuple):
  """Operations of the forward pass, by how many operands a gradient passes."""

  both: int = 0
  one: int = 0
  none: int = 0

  def plus(self, other: "Products") -> "Products":
    """The sum of both."""
    return Products(*(a + b for a, b in zip(self, other, strict=True)))

  def times(self, count: int) -> "Products":
    """The products done `count` times."""
    return Products(*(count * one for one in self))

  @property
  def training(self) -> int:
    """Operations of a training step."""
    return 3 * self.both + 2 * self.one + self.none


class Work(NamedTuple):
  """Products with parameters, and those of attention: logits and values."""

  weights: Products = Products()
  attention: Products = Products()

  def plus(self, other: "Work") -> "Work":
    """The sum of both."""
    return Work(self.weights.plus(other.weights), self.attention.plus(other.attention))

  @property
  def all(self) -> Products:
    """Products of both kinds."""
    return self.weights.plus(self.attention)


def model_work(config: MelodiConfig, length: int, vocab_size: int) -> Work:
  """What one row of a segment of `length` tokens costs in the stack and the output head."""
  head = Products(both=2 * length * config.emb_dim * vocab_size)
  return Work(weights=head).plus(stack_work(config, length // config.window_length))


def stack_work(config: MelodiConfig, windows: int) -> Work:
  """What one row of a segment of `windows` windows costs in the stack of the paper's layers."""
  total = Work()
  for spec in config.layers:
    total = total.plus(layer_work(config, spec, windows))
  return total


def layer_work(config: MelodiConfig, spec: LayerSpec, windows: int) -> Work:
  """What one row of a segment of `windows` windows costs in one layer."""
  width, ffn = config.emb_dim, config.mlp_dim
  all_heads = config.num_heads * config.head_dim
  tokens = config.mixer_inputs
  reading = reads_states(config, spec)

  projections = 2 * tokens * width * all_heads * (6 if reading else 4)
  window = Work(Products(projections + 4 * tokens * width * ffn), _attention(config, spec, windows))
  if spec.mixed:
    window = window.plus(Work(memory_weights(config, spec)))
  if reading and spec.increment:
    window = window.plus(_states(config, spec))
  segment = Work(stored_weights(config, spec))
  return segment.plus(Work(window.weights.times(windows), window.attention.times(windows)))


def memory_weights(config: MelodiConfig, spec: LayerSpec) -> Products:
  """The token mixers of one window, and the keys and values of what they mix."""
  outputs = spec.increment
  outputs += config.summary_tokens if spec.mixes_summary else 0
  outputs += spec.mixed_tokens if spec.mixes_short else 0
  mixers = 2 * config.mixer_inputs * outputs * config.emb_dim
  return Products(mixers + _pairs(config, spec.mixed_tokens + spec.increment))


def stored_weights(config: MelodiConfig, spec: LayerSpec) -> Products:
  """Keys and values of what earlier segments stored; MELODI's z counts in its window."""
  if spec.mixed:
    return Products(both=_pairs(config, 0 if config.long_term_pairs else spec.queue_tokens))
  if config.stores_pairs:
    return Products()
  queue = 0 if config.system == BLOCK_RECURRENT else spec.queue_tokens
  return Products(both=_pairs(config, spec.short_tokens), none=_pairs(config, queue))


def _pairs(config: MelodiConfig, tokens: int) -> int:
  """Operations that make the keys and values of `tokens` tokens."""
  return 4 * tokens * config.emb_dim * config.stored_heads * config.head_dim


def _attention(config: MelodiConfig, spec: LayerSpec, windows: int) -> Products:
  """Attention of the tokens of one window to their row, to the queue or to states."""
  tokens, all_heads = config.mixer_inputs, config.num_heads * config.head_dim
  row = spec.short_tokens + tokens
  if config.system == BLOCK_RECURRENT:
    states = config.long_term_increment if reads_states(config, spec) else 0
    return Products(4 * tokens * (row + states) * all_heads)
  # The queue as it was, and behind it what all windows of the segment add.
  queue = spec.queue_tokens + windows * spec.increment
  neighbors = config.neighbors.count
  if spec.mixed or not neighbors:
    return Products(4 * tokens * (row + queue) * all_heads)
  found = 0
  if queue:
    found = min(neighbors, queue) if config.neighbors.exact else neighbors
  return Products(
    both=4 * tokens * row * all_heads,
    one=4 * tokens * found * all_heads,
    none=2 * tokens * queue * all_heads,
  )


def _states(config: MelodiConfig, spec: LayerSpec) -> Work:
  """What it costs that states of a Block-Recurrent layer read a window and are rewritten."""
  width, ffn, states = config.emb_dim, config.mlp_dim, spec.increment
  all_heads = config.num_heads * config.head_dim
  read, cell = 2 * all_heads, config.recurrence.cell

  def gate(inputs: int) -> int:
    return 0 if config.recurrence.gate == "bias" else 2 * inputs * width

  per_state = 4 * width * all_heads
  if cell != "single":
    per_state += read * width + gate(read)
  if cell != "skip":
    per_state += (read if cell == "single" else width) * ffn + ffn * width + gate(ffn)
  keys = states + spec.short_tokens + config.window_length
  return Work(Products(2 * states * per_state), Products(4 * states * keys * all_heads))


# -- Of a MaxText config ---------------------------------------------------------------------------


class TrainingFlops(NamedTuple):
  """Operations of a training step of one row."""

  weights: float
  attention: float


def training_flops(config: Any, stock: TrainingFlops) -> TrainingFlops:
  """What a training step of one row of a MaxText config of ours computes.

  Args:
    config: a MaxText config for which `is_melodi` holds.
    stock: of the stock model, if memory is around a stock block: its products with parameters, for
      the block reads a window's summary tokens as it reads text; and both for the teacher in
      distillation, which is that model, without a backward pass.
  """
  melodi, length = MelodiConfig.from_maxtext(config), config.max_target_length
  if config.melodi_base_block == PAPER:
    work = model_work(melodi, length, config.vocab_size)
    return TrainingFlops(work.weights.training, work.attention.training)
  windows = length // melodi.window_length
  head = 6 * length * melodi.emb_dim * config.vocab_size
  weights = head + (stock.weights - head) * melodi.mixer_inputs / melodi.window_length
  attention = 0
  for spec in melodi.layers:
    memory = memory_weights(melodi, spec).times(windows).plus(stored_weights(melodi, spec))
    weights += memory.training
    own = _attention(melodi, spec, windows).times(windows * melodi.num_attentions)
    attention += own.training
  if config.melodi_distill_weight:
    weights, attention = weights + stock.weights / 3, attention + stock.attention / 3
  return TrainingFlops(weights, attention)
