"""One segment of every row through the whole stack.

Layers of one section are scanned, and so are windows: neither compile time nor program size grows
with the number of windows or of equal layers.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Int, Rng
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import Memory, settle
from melodi_plugin.core.schedules.diagonal import by_diagonals
from melodi_plugin.core.schedules.layers import by_layers
from melodi_plugin.core.schedules.walk import Walk, Weights, Wrap
from melodi_plugin.core.schedules.windows import by_windows
from melodi_plugin.core.segments import plan_windows
from melodi_plugin.core.stack import Section, merge, split

ORDERS = {"layers": by_layers, "windows": by_windows, "diagonal": by_diagonals}


def read_segment(
  sections: Sequence[Section],
  config: MelodiConfig,
  x: Float[Array, "B T D"],
  summary: Float[Array, "U D"],
  memory: Memory,
  positions: Int[Array, "B T"],
  segment_ids: Int[Array, "B T"],
  *,
  reset_every_window: bool = False,
  hidden: Int[Array, "B"] | None = None,
  schedule: str = "layers",
  rng: Rng | None = None,
  remat: Wrap = lambda function: function,
  weights: Weights | None = None,
) -> tuple[Float[Array, "B T D"], Memory]:
  """Reads one segment of every row.

  Args:
    sections: the runs of layers, from the bottom up.
    config: the stack.
    x: embedded tokens, in the compute dtype.
    summary: the learned summary embeddings, which enter below layer 0 in every window.
    memory: what each row remembers from earlier segments.
    positions: position of each token in its document.
    segment_ids: 0 for padding, greater than 0 for text.
    reset_every_window: treat every window as the start of a document (a control in evaluation).
    hidden: per row the oldest windows of the queues that it does not see, as if they were shorter.
    schedule: 'layers', 'windows' or 'diagonal'.
    rng: for dropout; None turns dropout off.
    remat: wrapped around every cell.
    weights: how those of a layer come together, in the schedule 'layers'.

  Returns:
    The context stream after the last layer, before the final norm, and the memory to carry on.

  Raises:
    ValueError: T is not a whole number of windows; or a layer tells its memory to all, and the
      schedule is not 'windows'; or the schedule is 'diagonal', with dropout.
  """
  if schedule != "windows" and any(section.cell.long.tells for section in sections):
    raise ValueError("a layer with feedback is read by all others: use melodi_schedule=windows.")
  if schedule == "diagonal" and rng is not None:
    raise ValueError("layers that read at once would drop the same: use melodi_schedule=layers.")
  windows = plan_windows(
    positions,
    segment_ids,
    memory.windows,
    window_length=config.window_length,
    queue_windows=config.long_term_windows,
    reset_every_window=reset_every_window,
    hidden=hidden,
  )
  walk = Walk(windows, rng, remat, weights)
  memories = split(memory, sections)
  x_KBWD, memories = ORDERS[schedule](sections, _streams(config, x, summary), memories, walk)
  new = settle(memory, merge(memories, memory, sections), windows)
  return jnp.moveaxis(x_KBWD, 0, 1).reshape(x.shape), new


def _streams(
  config: MelodiConfig, x: Float[Array, "B T D"], summary: Float[Array, "U D"]
) -> Streams:
  """What enters below layer 0 in every window; leaves have K in front."""
  batch, _, width = x.shape
  x_KBWD = jnp.moveaxis(x.reshape(batch, -1, config.window_length, width), 1, 0)
  u_KBUD = jnp.broadcast_to(summary.astype(x.dtype), (*x_KBWD.shape[:2], *summary.shape))
  return Streams(x_KBWD, u_KBUD)
