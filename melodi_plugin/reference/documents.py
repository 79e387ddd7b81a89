"""What documents remember in `baselines`, and the same as the fast path's arrays."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT
from melodi_plugin.core.memory import Memory


@dataclasses.dataclass
class LayerOfDocument:
  """What one layer remembers of one document.

  A stored window has n <= W entries: tokens, or keys and values where these are stored.
  """

  sinks: Any = None  # the first tokens of the document
  cache: Any = None  # the last n <= C tokens of its windows so far
  padding: int = 0  # behind them, if the last window was not full
  read: int = 0  # tokens of those windows
  old: list = dataclasses.field(default_factory=list)  # windows from before this segment
  new: list = dataclasses.field(default_factory=list)  # (number in the segment, window)
  states: Any = None

  def remember(self, spec: LayerSpec, entries: Any, padding: int) -> None:
    """The sinks and the cache after a window."""
    if self.cache is None:
      self.sinks, self.cache = entries[: spec.sink_tokens], entries[:0]
    self.cache = jnp.concatenate([self.cache, entries])[-spec.cache_tokens :]
    self.padding, self.read = padding, self.read + entries.shape[0]


class Document:
  """What the stack remembers of one document, and how many of its windows were read."""

  def __init__(self, config: MelodiConfig):
    self.windows = 0
    self.layers = [LayerOfDocument() for _ in config.layers]


def recollect(config: MelodiConfig, memory: Memory) -> Document:
  """The document that a row's memory is of."""
  document, shorts, longs = Document(config), iter(memory.short), iter(memory.long)
  document.windows = int(memory.windows)
  for spec, own in zip(config.layers, document.layers, strict=True):
    short = next(shorts) if spec.short_tokens else None
    long: Any = next(longs) if spec.increment else None
    if not document.windows:
      continue
    if short is not None:
      filled = min(spec.cache_tokens, document.windows * config.window_length)
      if config.reference_defects:  # empty slots are input, too
        filled = spec.cache_tokens
      own.read = document.windows * config.window_length
      own.sinks, own.cache = short[: spec.sink_tokens], short[spec.short_tokens - filled :]
    if long is not None and config.system == BLOCK_RECURRENT:
      own.states = long
    elif long is not None:
      count = min(document.windows, config.long_term_windows)
      if config.reference_defects:  # empty slots are input, too
        count = config.long_term_windows
      own.old = list(jnp.split(long, config.long_term_windows)[-count:])
  return document


def write_down(document: Document, config: MelodiConfig, memory: Memory) -> Memory:
  """The opposite: short windows end, and short caches and queues begin, with zeros."""

  def pad(entries, before, after):
    return jnp.pad(entries, ((before, after), (0, 0)))

  short, long = [], []
  for spec, own in zip(config.layers, document.layers, strict=True):
    if spec.short_tokens:
      nothing = memory.short[0][:0]
      sinks, cache = (nothing if part is None else part for part in (own.sinks, own.cache))
      sinks = pad(sinks, 0, spec.sink_tokens - sinks.shape[0])
      cache = pad(cache, spec.cache_tokens, own.padding)[-spec.cache_tokens :]
      short.append(jnp.concatenate([sinks, cache]))
    if spec.increment and config.system == BLOCK_RECURRENT:
      long.append(memory.long[len(long)] if own.states is None else own.states)
    elif spec.increment:
      windows = [*own.old, *(window for _, window in own.new)][-config.long_term_windows :]
      full = [pad(window, 0, spec.increment - window.shape[0]) for window in windows]
      slots = jnp.concatenate([memory.long[0][:0], *full])
      long.append(pad(slots, spec.queue_tokens - slots.shape[0], 0))
  return Memory(
    jnp.stack(short) if short else memory.short,
    jnp.stack(long) if long else memory.long,
    jnp.asarray(document.windows, jnp.int32),
  )
