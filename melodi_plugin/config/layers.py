"""What one layer keeps and how it reads it: the parts of a `MelodiConfig`."""

from typing import NamedTuple


class LayerSpec(NamedTuple):
  """What one layer keeps and mixes.  Layers of equal spec can share a `lax.scan`.

  Before the window stand: the document's first tokens (sinks), mixed tokens, and the last C tokens
  before the window as they are (a cache).  Cache and sinks are of stock blocks, and of systems
  other than MELODI, where C = W unless a key says otherwise; these have no mixed tokens, and their
  queue holds all W tokens of every window (Memorizing Transformer), or the R states, as a queue
  of one window (Block-Recurrent).
  """

  short_tokens: int = 0  # all places before the window, 0 without short-term memory
  increment: int = 0  # L of this layer, 0 without a long-term queue
  queue_tokens: int = 0  # M of this layer
  mixes_summary: bool = False  # has a mixer for the next layer's summary tokens
  mixes_short: bool = False  # has a mixer for the next window's short-term memory
  residual_short: bool = False  # that mixer has norms and the residual (paper's layers, S = U)
  has_positions: bool = True  # self-attention knows distances
  mixed: bool = True  # memory holds mixed tokens: MELODI
  sink_tokens: int = 0  # those of `short_tokens` that are the first of the document
  cache_tokens: int = 0  # C: those of `short_tokens` that are the last before the window

  @property
  def verbatim_tokens(self) -> int:
    """Sinks and cache of this layer."""
    return self.sink_tokens + self.cache_tokens

  @property
  def mixed_tokens(self) -> int:
    """S of this layer."""
    return self.short_tokens - self.verbatim_tokens

  @property
  def mixes_long(self) -> bool:
    """Whether it has a mixer for the long-term queue."""
    return self.mixed and self.increment > 0


class Run(NamedTuple):
  """A maximal run of consecutive layers with one spec."""

  spec: LayerSpec
  first: int
  length: int


class Recurrence(NamedTuple):
  """The cell of a Block-Recurrent layer (SEMANTICS 4.4)."""

  gate: str = "bias"
  cell: str = "skip"
  feedback: bool = False


BIAS_SKIP = Recurrence()


class Neighbors(NamedTuple):
  """How a Memorizing Transformer retrieves (SEMANTICS 4.3); 0 attends to the whole queue."""

  count: int = 0
  exact: bool = False


WHOLE_QUEUE = Neighbors()
