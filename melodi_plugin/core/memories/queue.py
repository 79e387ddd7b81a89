"""Long-term memory as a queue of tokens."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Bool, Float, Heads, Int, Rng, Summary
from melodi_plugin.core.cell import KeyValues, OpenWindow, Reader, join
from melodi_plugin.core.memories.contents import Contents
from melodi_plugin.core.memory import Stored, push, replay, tokens_left
from melodi_plugin.core.segments import Windows


class OldQueue(NamedTuple):
  """The queue before a segment, projected once with the weights of this step."""

  key: Heads  # B M N H
  value: Heads


class Increments(NamedTuple):
  """Keys and values of what the windows of a segment have added so far."""

  key: Float[Array, "B K L N H"]
  value: Float[Array, "B K L N H"]


@final
@dataclasses.dataclass(frozen=True)
class Queue:
  """M tokens, of which every window drops the oldest L and appends new ones."""

  config: MelodiConfig
  spec: LayerSpec
  contents: Contents
  learns: bool = True  # whether a gradient reaches the weights through what earlier segments left
  dtype: Any = jnp.float32
  tells: ClassVar[bool] = False

  @property
  def stored(self) -> Stored:
    """See `LongMemory.stored`."""
    return Stored((self.spec.queue_tokens, self.config.long_width), (None, "activation_embed"))

  @property
  def keeps(self) -> str:
    """See `LongMemory.keeps`."""
    return self.contents.keeps

  # -- The verbs -----------------------------------------------------------------------------------

  def recall(
    self,
    reader: Reader,
    params: Any,
    kept: Float[Array, "B M _"],
    held: Int[Array, "B"],
    rng: Rng | None,
  ) -> KeyValues:
    """See `LongMemory.recall`."""
    visible = jnp.ones(kept.shape[:2], bool)
    if self.config.mask_empty_slots:
      visible = self._filled(held)
    return KeyValues(*self._heads(reader, params, kept, rng), visible)

  def reads(self, seen: KeyValues) -> KeyValues:
    """See `LongMemory.reads`."""
    return seen

  def close(
    self,
    reader: Reader,
    params: Any,
    u: Summary,
    window: OpenWindow,
    seen: KeyValues,
    row: KeyValues,
  ) -> Float[Array, "B L _"]:
    """See `LongMemory.close`."""
    return self.contents.to_store(reader, params, self.contents.close(params, u, window))

  def write(self, kept: Float[Array, "B M _"], new: Float[Array, "B L _"]) -> Float[Array, "B M _"]:
    """See `LongMemory.write`."""
    return push(kept, new)

  def extend(
    self,
    reader: Reader,
    params: Any,
    seen: KeyValues,
    kept: Float[Array, "B M _"],
    tokens: KeyValues,
    rng: Rng | None,
  ) -> KeyValues:
    """See `LongMemory.extend`: only the increment is projected."""
    increment = self.spec.increment
    new = kept[:, kept.shape[1] - increment :].astype(self.dtype)
    heads = self.contents.new_heads(reader, params, new, tokens, rng)
    added = KeyValues(*heads, jnp.ones(new.shape[:2], bool))
    return join(KeyValues(*(leaf[:, increment:] for leaf in seen)), added)

  # -- A segment -----------------------------------------------------------------------------------

  def begin(
    self,
    reader: Reader,
    params: Any,
    kept: Float[Array, "B M _"],
    windows: Windows,
    rng: Rng | None,
  ) -> tuple[OldQueue, Increments]:
    """See `LongMemory.begin`: the old queue is projected once, and only increments are carried."""
    num_windows, batch = windows.starts.shape
    heads = (self.config.stored_heads, self.config.head_dim)
    empty = jnp.zeros((batch, num_windows, self.spec.increment, *heads), self.dtype)
    return OldQueue(*self._heads(reader, params, kept, rng)), Increments(empty, empty)

  def seen(self, params: Any, fixed: OldQueue, state: Increments, window: Windows) -> KeyValues:
    """See `LongMemory.seen`: without moving anything, old slots first, then increments.

    The p windows pushed so far have evicted the first p * L old slots.  Old slots of another
    document are zero tokens, which have zero keys and values.
    """
    spec, batch = self.spec, window.pushed.shape[0]
    slot = jnp.arange(spec.queue_tokens, dtype=jnp.int32)[None]
    evicted = 0 if self.config.reference_defects else window.pushed[:, None] * spec.increment
    seen_from = evicted + window.hidden[:, None] * spec.increment
    visible = jnp.broadcast_to(slot >= seen_from, (batch, spec.queue_tokens))
    if self.config.mask_empty_slots:
      old = jnp.where(window.carried, window.held - window.pushed, 0)
      visible &= self._filled(old)
    carried = window.carried[:, None, None, None]
    recent = jnp.repeat(window.recent, spec.increment, axis=1)
    seen = recent[:, :, None, None]  # what is not seen may be another document's, even NaN

    def flat(leaf: Float[Array, "B K L N H"]) -> Heads:
      return jnp.where(seen, leaf.reshape(batch, recent.shape[1], *leaf.shape[3:]), 0)

    return join(
      KeyValues(jnp.where(carried, fixed.key, 0), jnp.where(carried, fixed.value, 0), visible),
      KeyValues(flat(state.key), flat(state.value), recent),
    )

  def step(
    self,
    reader: Reader,
    params: Any,
    state: Increments,
    new: Float[Array, "B L _"],
    tokens: KeyValues,
    window: Windows,
    index: Int[Array, ""],
    rng: Rng | None,
  ) -> tuple[Increments, Float[Array, "B L _"]]:
    """See `LongMemory.step`."""
    heads = self.contents.new_heads(reader, params, new, tokens, rng)

    def put(leaf: Float[Array, "B K L N H"], own: Heads) -> Float[Array, "B K L N H"]:
      return jax.lax.dynamic_update_index_in_dim(leaf, own, index, 1)

    return Increments(*map(put, state, heads)), new

  def end(
    self,
    kept: Float[Array, "B M _"],
    state: Increments,
    pushed: Float[Array, "K B L _"],
    windows: Windows,
  ) -> Float[Array, "B M _"]:
    """See `LongMemory.end`."""
    return replay(kept, pushed, windows)

  # -- Parts ---------------------------------------------------------------------------------------

  def _heads(
    self, reader: Reader, params: Any, kept: Float[Array, "B M _"], rng: Rng | None
  ) -> tuple[Heads, Heads]:
    heads = self.contents.old_heads(reader, params, kept, "long", rng)
    return heads if self.learns else jax.lax.stop_gradient(heads)

  def _filled(self, held: Int[Array, "B"]) -> Bool[Array, "B M"]:
    """The slots that `held` windows have filled: the newest end."""
    from_end = self.spec.queue_tokens - jnp.arange(self.spec.queue_tokens, dtype=jnp.int32)
    left = tokens_left(held, self.spec.increment, self.spec.queue_tokens)
    return from_end[None] <= left[:, None]
