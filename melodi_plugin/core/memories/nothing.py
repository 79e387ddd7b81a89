"""A layer without long-term memory."""

import dataclasses
from typing import Any, ClassVar, final

import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Int, Rng, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader
from melodi_plugin.core.memory import Stored
from melodi_plugin.core.segments import Windows

Empty = tuple[()]


@final
@dataclasses.dataclass(frozen=True)
class Nothing:
  """No long-term memory; what is stored is an array of no tokens, or anything else."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32
  tells: ClassVar[bool] = False
  keeps: ClassVar[str] = ""

  @property
  def stored(self) -> Stored:
    """See `LongMemory.stored`."""
    return Stored((0, self.config.long_width), (None, "activation_embed"))

  def recall(
    self, reader: Reader, params: Any, kept: Any, held: Int[Array, "B"], rng: Rng | None
  ) -> Empty:
    """See `LongMemory.recall`."""
    return ()

  def reads(self, seen: Empty) -> None:
    """See `LongMemory.reads`."""
    return

  def close(
    self,
    reader: Reader,
    params: Any,
    u: Summary,
    window: OpenWindow,
    seen: Empty,
    row: KeyValues,
  ) -> Empty:
    """See `LongMemory.close`."""
    return ()

  def write(self, kept: Any, new: Empty) -> Any:
    """See `LongMemory.write`."""
    return kept

  def extend(
    self, reader: Reader, params: Any, seen: Empty, kept: Any, tokens: KeyValues, rng: Rng | None
  ) -> Empty:
    """See `LongMemory.extend`."""
    return ()

  def begin(
    self, reader: Reader, params: Any, kept: Any, windows: Windows, rng: Rng | None
  ) -> tuple[Empty, Empty]:
    """See `LongMemory.begin`."""
    return (), ()

  def seen(self, params: Any, fixed: Empty, state: Empty, window: Windows) -> Empty:
    """See `LongMemory.seen`."""
    return ()

  def step(
    self,
    reader: Reader,
    params: Any,
    state: Empty,
    new: Empty,
    tokens: KeyValues,
    window: Windows,
    index: Int[Array, ""],
    rng: Rng | None,
  ) -> tuple[Empty, Empty]:
    """See `LongMemory.step`."""
    return (), ()

  def end(self, kept: Any, state: Empty, pushed: Empty, windows: Windows) -> Any:
    """See `LongMemory.end`."""
    return kept
