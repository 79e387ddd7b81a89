"""Documents inside a segment: where they start, what is padding, and what memory may be seen.

A window starts a document iff its first position is 0 and its first segment id is greater than 0
(padding and placeholder batches carry position 0 too).  Documents start at window boundaries; the
tail of a document's last window is padding (segment id 0).  A window that is all padding leaves
memory as it was.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from melodi_plugin.core.array_typing import Array, Bool, Int, Rows

Tree = TypeVar("Tree")


class Windows(NamedTuple):
  """What each window of a segment needs to know about documents, per row.

  A segment's `Windows` has K in front of every axis; a loop over windows hands out one slice.
  """

  valid: Bool[Array, "*K B W"]  # the token is text, not padding
  starts: Bool[Array, "*K B"]  # a document starts here: its memory is empty
  writes: Bool[Array, "*K B"]  # the window holds text, so it writes memory
  held: Int[Array, "*K B"]  # windows of this document that memory holds already
  pushed: Int[Array, "*K B"]  # how many of them were written in this segment
  carried: Bool[Array, "*K B"]  # memory from before this segment is of this document
  hidden: Int[Array, "*K B"]  # the oldest windows of the queue that are not to be seen
  recent: Bool[Array, "*K B J"]  # the queue still holds what window J of this segment wrote


def plan_windows(
  positions: Int[Array, "B T"],
  segment_ids: Int[Array, "B T"],
  windows_held: Int[Array, "B"],
  *,
  window_length: int,
  queue_windows: int,
  reset_every_window: bool = False,
  hidden: Int[Array, "B"] | None = None,
) -> Windows:
  """Reads the documents of a segment off its positions and segment ids.

  Args:
    positions: position of each token in its document.
    segment_ids: 0 for padding, greater than 0 for text.
    windows_held: windows of the current document that memory holds before this segment.
    window_length: W; divides T.
    queue_windows: Q.
    reset_every_window: treat every window as the start of a document (a control in evaluation).
    hidden: the oldest windows of a full queue that a row does not see; none by default.

  Returns:
    The plan of all K windows.
  """
  batch, length = positions.shape
  if length % window_length:
    raise ValueError(
      f"a segment of {length} tokens is not a whole number of windows: make max_target_length a "
      f"multiple of melodi_window_length={window_length}."
    )
  split = (batch, length // window_length, window_length)
  valid_BKW = segment_ids.reshape(split) > 0
  writes_BK = valid_BKW.any(-1)
  starts_BK = valid_BKW[..., 0] & (positions.reshape(split)[..., 0] == 0)
  if reset_every_window:
    starts_BK = writes_BK

  document_BK = jnp.cumsum(starts_BK, axis=1, dtype=jnp.int32)
  num_windows = split[1]
  earlier_KJ = jnp.tril(jnp.ones((num_windows, num_windows), bool), -1)
  same_BKJ = document_BK[:, :, None] == document_BK[:, None, :]
  written_BKJ = same_BKJ & earlier_KJ[None] & writes_BK[:, None, :]
  pushed_BK = written_BKJ.sum(-1, dtype=jnp.int32)
  age_BKJ = pushed_BK[:, :, None] - pushed_BK[:, None, :]  # windows pushed since J, J included
  carried_BK = document_BK == 0
  if hidden is None:
    hidden = jnp.zeros(batch, jnp.int32)
  plan = Windows(
    valid=valid_BKW,
    starts=starts_BK,
    writes=writes_BK,
    held=pushed_BK + jnp.where(carried_BK, windows_held[:, None], 0),
    pushed=pushed_BK,
    carried=carried_BK,
    hidden=jnp.broadcast_to(hidden[:, None], pushed_BK.shape),
    recent=written_BKJ & (age_BKJ <= queue_windows - hidden[:, None, None]),
  )
  return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), plan)


def select_rows(flags: Rows, on: Tree, off: Tree) -> Tree:
  """Per batch row, `on` where the flag is set and `off` elsewhere; leaves begin with axis B."""

  def select(a, b):
    return jnp.where(flags.reshape(flags.shape + (1,) * (b.ndim - 1)), a, b)

  return jax.tree.map(select, on, off)


def reset(boundary: Rows, memory: Tree) -> Tree:
  """The one reset rule: rows in which a document starts have zeros, the others what they had."""
  return select_rows(boundary, jax.tree.map(jnp.zeros_like, memory), memory)
