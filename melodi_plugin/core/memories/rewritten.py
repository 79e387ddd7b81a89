"""Long-term memory as one state that every window rewrites."""

import dataclasses
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Int, Rng, Rows, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader
from melodi_plugin.core.memory import rewrite
from melodi_plugin.core.segments import Windows, select_rows


@runtime_checkable
class Rule[P](Protocol):
  """How a memory of one state is read and rewritten.  `state` is a tree of arrays, rows first."""

  @property
  def tells(self) -> bool:
    """See `LongMemory.tells`."""
    ...

  @property
  def stored(self) -> Any:
    """The tree of `Stored` of a state."""
    ...

  def initial(self, params: P, batch: int) -> Any:
    """The state with which a document begins."""
    ...

  def seen(self, params: P, state: Any) -> Any:
    """The state as a window sees it; also what `rewrite` needs of it."""
    ...

  def reads(self, seen: Any) -> Any:
    """What of it `Reader.read` gets."""
    ...

  def rewrite(self, params: P, u: Summary, seen: Any, row: KeyValues) -> Any:
    """The state after a window, from its summary tokens above the layer, or from its row."""
    ...


@final
@dataclasses.dataclass(frozen=True)
class Rewritten[P]:
  """A state that every window rewrites as a whole."""

  rule: Rule[P]
  dtype: Any = jnp.float32  # of the state between the windows of a segment
  keeps: ClassVar[str] = ""  # an open window keeps nothing for it

  @property
  def tells(self) -> bool:
    """See `LongMemory.tells`."""
    return self.rule.tells

  @property
  def stored(self) -> Any:
    """See `LongMemory.stored`."""
    return self.rule.stored

  # -- The verbs -----------------------------------------------------------------------------------

  def recall(
    self, reader: Reader[P], params: P, kept: Any, held: Int[Array, "B"], rng: Rng | None
  ) -> Any:
    """See `LongMemory.recall`."""
    return self._seen(params, self._cast(kept), held == 0)

  def reads(self, seen: Any) -> Any:
    """See `LongMemory.reads`."""
    return self.rule.reads(seen)

  def close(
    self,
    reader: Reader[P],
    params: P,
    u: Summary,
    window: OpenWindow,
    seen: Any,
    row: KeyValues,
  ) -> Any:
    """See `LongMemory.close`."""
    return self.rule.rewrite(params, u, seen, row)

  def write(self, kept: Any, new: Any) -> Any:
    """See `LongMemory.write`."""
    return new

  def extend(
    self, reader: Reader[P], params: P, seen: Any, kept: Any, tokens: KeyValues, rng: Rng | None
  ) -> Any:
    """See `LongMemory.extend`."""
    return self.rule.seen(params, self._cast(kept))

  # -- A segment -----------------------------------------------------------------------------------

  def begin(
    self, reader: Reader[P], params: P, kept: Any, windows: Windows, rng: Rng | None
  ) -> tuple[tuple[()], Any]:
    """See `LongMemory.begin`."""
    return (), self._cast(kept)

  def seen(self, params: P, fixed: tuple[()], state: Any, window: Windows) -> Any:
    """See `LongMemory.seen`."""
    return self._seen(params, state, window.held == 0)

  def step(
    self,
    reader: Reader[P],
    params: P,
    state: Any,
    new: Any,
    tokens: KeyValues,
    window: Windows,
    index: Int[Array, ""],
    rng: Rng | None,
  ) -> tuple[Any, tuple[()]]:
    """See `LongMemory.step`."""
    return rewrite(state, new, window.writes), ()

  def end(self, kept: Any, state: Any, pushed: tuple[()], windows: Windows) -> Any:
    """See `LongMemory.end`."""
    return rewrite(kept, state, windows.writes.any(0))

  # -- Parts ---------------------------------------------------------------------------------------

  def _cast(self, state: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(self.dtype), state)

  def _seen(self, params: P, state: Any, fresh: Rows) -> Any:
    initial = self._cast(self.rule.initial(params, fresh.shape[0]))
    return self.rule.seen(params, select_rows(fresh, initial, state))
