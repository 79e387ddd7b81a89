"""The sizes of a model with memory, derived from the keys (`keys.py`), and their checks.

`MelodiConfig` is what the model reads: frozen, hashable, complete, and free of MaxText.
"""

import dataclasses
from itertools import groupby
from typing import Any

from melodi_plugin.config.layers import (
  BIAS_SKIP,
  WHOLE_QUEUE,
  LayerSpec,
  Neighbors,
  Recurrence,
  Run,
)
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.settings import parse_layers
from melodi_plugin.config.systems import (
  BLOCK_RECURRENT,
  MELODI,
  MEMORIZING,
  USERS,
  own_settings,
  system_of,
)


@dataclasses.dataclass(frozen=True)
class MelodiConfig:
  """A stack with memory, without vocabulary.  Raises ValueError where sizes contradict each other.

  The sizes of other systems than MELODI are those of the memory they fill, see `LayerSpec` and
  `baseline`.
  """

  num_layers: int
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  window_length: int
  summary_tokens: int
  short_term_tokens: int
  long_term_increment: int
  long_term_windows: int
  long_term_layers: tuple[int, ...]
  short_term_layers: tuple[int, ...]
  summary_branching: bool = True
  position: str = "t5"
  mask_empty_slots: bool = False
  own_long_temperature: bool = False  # attention to the queue has temperatures of its own
  dropout_rate: float = 0.0
  base_block: str = PAPER
  num_kv_heads: int = 0  # of a stock block; the paper's layers have num_heads
  num_attentions: int = 1  # of one layer
  system: str = MELODI
  ffn_bias: bool = True
  neighbors: Neighbors = WHOLE_QUEUE
  recurrence: Recurrence = BIAS_SKIP
  reference_defects: bool = False
  sink_tokens: int = 0  # A
  cache_tokens: int = 0  # C
  long_term_pairs: bool = False  # the queue around a stock block holds keys and values
  own: Any = None  # the settings of a user's system: its keys, frozen

  def __post_init__(self):
    for name in ("long_term_layers", "short_term_layers"):
      outside = [i for i in getattr(self, name) if not 0 <= i < self.num_layers]
      if outside:
        recurrent = name == "long_term_layers" and self.system == BLOCK_RECURRENT
        raise ValueError(
          f"melodi_{'recurrent_layers' if recurrent else name} names layer {outside[0]}, but the "
          f"model has layers 0 to {self.num_layers - 1}."
        )
    short, summary = self.short_term_tokens, self.summary_tokens
    if not self.summary_branching and self.short_term_layers and short not in (0, summary):
      raise ValueError(
        f"melodi_summary_branching=false hands the {summary} summary tokens on as short-term "
        f"memory, so melodi_short_term_tokens must be {summary} or 0, not {short}."
      )
    if self.sink_tokens > self.window_length:
      raise ValueError(
        f"melodi_sink_tokens={self.sink_tokens} are more than the "
        f"melodi_window_length={self.window_length} tokens of a document's first window; lower it."
      )

  @classmethod
  def from_maxtext(cls, config: Any) -> "MelodiConfig":
    """Reads the sizes off a MaxText config, by attribute only."""
    layers = config.num_decoder_layers

    def parsed(key: str) -> tuple[int, ...]:
      return parse_layers(key, getattr(config, key), layers)

    system, around_stock = system_of(config), config.melodi_base_block != PAPER
    common = dict(
      num_layers=layers,
      emb_dim=config.emb_dim,
      num_heads=config.num_query_heads,
      head_dim=config.head_dim,
      mlp_dim=config.mlp_dim,
      window_length=config.melodi_window_length,
      position=config.melodi_position,
      dropout_rate=config.dropout_rate,
    )
    if system not in (MELODI, *USERS):
      recurrent = system == BLOCK_RECURRENT
      return cls.baseline(
        system,
        memory_layers=parsed("melodi_recurrent_layers" if recurrent else "melodi_long_term_layers"),
        queue_windows=config.melodi_long_term_windows,
        states=config.melodi_recurrent_states,
        neighbors=Neighbors(config.melodi_neighbors, config.melodi_exact_neighbors),
        recurrence=Recurrence(
          config.melodi_recurrent_gate,
          config.melodi_recurrent_cell,
          config.melodi_recurrent_feedback,
        ),
        reference_defects=config.melodi_reference_defects,
        cache_tokens=config.melodi_cache_tokens,
        sink_tokens=config.melodi_sink_tokens,
        **common,
      )
    return cls(
      **common,
      summary_tokens=config.melodi_summary_tokens,
      short_term_tokens=config.melodi_short_term_tokens,
      long_term_increment=config.melodi_long_term_increment,
      long_term_windows=config.melodi_long_term_windows,
      long_term_layers=parsed("melodi_long_term_layers"),
      short_term_layers=parsed("melodi_short_term_layers"),
      summary_branching=config.melodi_summary_branching,
      mask_empty_slots=config.melodi_mask_empty_slots or around_stock,
      own_long_temperature=config.melodi_long_term_temperature > 0,
      base_block=config.melodi_base_block,
      num_kv_heads=config.num_kv_heads,
      num_attentions=2 if config.melodi_base_block == "gemma2" else 1,
      system=system,
      sink_tokens=config.melodi_sink_tokens if around_stock else 0,
      cache_tokens=config.melodi_cache_tokens if around_stock else 0,
      long_term_pairs=config.melodi_long_term_pairs,
      own=own_settings(system, config),
    )

  @classmethod
  def baseline(
    cls,
    system: str,
    *,
    num_layers: int,
    window_length: int,
    memory_layers: tuple[int, ...] = (),
    queue_windows: int = 0,
    states: int = 0,
    neighbors: Neighbors = WHOLE_QUEUE,
    reference_defects: bool = False,
    cache_tokens: int = 0,
    sink_tokens: int = 0,
    **sizes: Any,
  ) -> "MelodiConfig":
    """A stack of another system than MELODI.

    Args:
      system: one of SYSTEMS.
      num_layers: Y, memory layers included.
      window_length: W.
      memory_layers: layers with a queue (Memorizing Transformer) or states (Block-Recurrent).
      queue_windows: Q of the Memorizing Transformer, which stores all W tokens of a window.
      states: R of the Block-Recurrent Transformer.
      neighbors: retrieval of the Memorizing Transformer.
      reference_defects: exactly as in the official code.
      cache_tokens: C of every cache; 0 is W.
      sink_tokens: first tokens of the document that every cache keeps besides; at most W.
      **sizes: further fields.
    """
    memorizes, recurrent = system == MEMORIZING, system == BLOCK_RECURRENT
    if memorizes:
      _check_queue(window_length, queue_windows, neighbors)
    if recurrent and sizes.get("recurrence", BIAS_SKIP).feedback and len(memory_layers) != 1:
      raise ValueError(
        "melodi_recurrent_feedback=true lets every layer read one layer's states, but "
        f"melodi_recurrent_layers names {len(memory_layers)} layers; name one."
      )
    # A layer that attends to its whole queue sees the previous window there.
    uncached = memory_layers if memorizes and not neighbors.count else ()
    return cls(
      num_layers=num_layers,
      window_length=window_length,
      summary_tokens=0,
      short_term_tokens=0,
      long_term_increment=states if recurrent else window_length if memorizes else 0,
      long_term_windows=1 if recurrent else queue_windows if memorizes else 0,
      long_term_layers=memory_layers if memorizes or recurrent else (),
      short_term_layers=tuple(i for i in range(num_layers) if i not in uncached),
      mask_empty_slots=not reference_defects,
      system=system,
      ffn_bias=memorizes and not neighbors.count,  # as the official configurations
      neighbors=neighbors if memorizes else WHOLE_QUEUE,
      reference_defects=reference_defects,
      sink_tokens=sink_tokens,
      cache_tokens=cache_tokens or window_length,
      **sizes,
    )

  @property
  def queue_tokens(self) -> int:
    """M: tokens of one long-term queue."""
    return self.long_term_windows * self.long_term_increment

  @property
  def stored_heads(self) -> int:
    """Heads of the keys and values of one token in one layer."""
    return self.num_heads if self.base_block == PAPER else self.num_kv_heads * self.num_attentions

  @property
  def stores_pairs(self) -> bool:
    """Whether caches and queues of another system hold keys and values, which go stale."""
    return self.system != MELODI and self.reference_defects

  @property
  def cache_width(self) -> int:
    """Numbers of one slot of a cache; around a stock block it holds keys and values, too."""
    return self._pair if self.stores_pairs or self.base_block != PAPER else self.emb_dim

  @property
  def long_width(self) -> int:
    """Numbers of one slot of the queue; states are always tokens."""
    pairs = self.long_term_pairs or (self.stores_pairs and self.system != BLOCK_RECURRENT)
    return self._pair if pairs else self.emb_dim

  @property
  def _pair(self) -> int:
    return 2 * self.stored_heads * self.head_dim

  @property
  def mixer_inputs(self) -> int:
    """Tokens that a token mixer reads: one window and its summary tokens."""
    return self.window_length + self.summary_tokens

  def layer(self, index: int) -> LayerSpec:
    """The spec of layer `index`."""
    if self.system not in USERS:
      return self.layer_by_keys(index)
    own = USERS[self.system].layer
    spec = own(self, index) if own else LayerSpec()
    if not isinstance(spec, LayerSpec):
      raise ValueError(
        f"`layer` of the system {self.system} must return a LayerSpec, not {spec!r}."
      )
    return spec

  def layer_by_keys(self, index: int) -> LayerSpec:
    """What the keys of MELODI ask for (SEMANTICS: S = 0 and 'no branching' rules)."""
    short = cache = sinks = 0
    if index in self.short_term_layers:
      short, cache, sinks = self.short_term_tokens, self.cache_tokens, self.sink_tokens
    long = index in self.long_term_layers and self.queue_tokens > 0
    branching = self.summary_branching and self.summary_tokens > 0
    mixes_short = short > 0 and self.summary_branching
    return LayerSpec(
      short_tokens=sinks + short + cache,
      increment=self.long_term_increment if long else 0,
      queue_tokens=self.queue_tokens if long else 0,
      # Without short-term memory only a long-term layer still mixes u: the reference's asymmetry.
      mixes_summary=branching and (short > 0 or long),
      mixes_short=mixes_short,
      # A stock layer's short-term memory starts as a copy of tokens, so nothing is added to it.
      residual_short=mixes_short and short == self.summary_tokens and self.base_block == PAPER,
      has_positions=self.position != "none" and not (self.system == MEMORIZING and long),
      mixed=self.system in (MELODI, *USERS),
      sink_tokens=sinks,
      cache_tokens=cache,
    )

  @property
  def layers(self) -> tuple[LayerSpec, ...]:
    """The spec of every layer."""
    return tuple(self.layer(index) for index in range(self.num_layers))

  def runs(self, scan_layers: bool = True) -> tuple[Run, ...]:
    """Maximal runs of equal layers, or one run per layer if layers are not scanned."""
    if not scan_layers:
      return tuple(Run(spec, index, 1) for index, spec in enumerate(self.layers))
    runs, first = [], 0
    for spec, group in groupby(self.layers):
      length = len(list(group))
      runs.append(Run(spec, first, length))
      first += length
    return tuple(runs)


def _check_queue(window_length: int, queue_windows: int, neighbors: Neighbors) -> None:
  """Raises ValueError for a queue that a Memorizing Transformer cannot have."""
  if queue_windows < 1:
    raise ValueError("melodi_long_term_windows must be at least 1 for memorizing_transformer.")
  if neighbors.count and window_length % neighbors.count and not neighbors.exact:
    raise ValueError(
      f"melodi_neighbors={neighbors.count} does not divide melodi_window_length={window_length}: "
      "which pairs compete would depend on where a segment begins; change one of them, or set "
      "melodi_exact_neighbors=true."
    )
