"""Parameters and memory in closed form: the numbers of the paper's tables (SEMANTICS 1.10, 1.4)."""

from typing import NamedTuple

from melodi_plugin.config import LayerSpec, MelodiConfig

T5_TABLE = 32  # numbers per head of a layer's T5 table


def parameters(config: MelodiConfig, vocab_size: int | None = None) -> int:
  """Numbers that training learns: the stack, and the tied embedding if `vocab_size` is given.

  The stack is its layers, the summary table (U * D) and the final norm (D): SEMANTICS 1.10.
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

  def mixer(outputs: int) -> int:
    return (config.mixer_inputs + 1) * outputs

  total = attention + feed_forward + norms
  if spec.mixes_summary:
    total += mixer(config.summary_tokens) + norms
  if spec.mixes_short:
    total += mixer(spec.short_tokens) + (norms if spec.residual_short else 0)
  if spec.increment:
    total += mixer(spec.increment) + all_heads  # and the gate
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
