"""Whether the gates of memory around a stock block have moved.

They start at 2, where the queue counts 12 % of a head's output, and Adam moves a number by at most
its learning rate per step: with that of the model a short training leaves them where they were.
"""

from collections.abc import Mapping

import numpy as np

from melodi_plugin.config.parameter_names import is_memory_parameter

_LEAST = 0.01  # of the way from where they start to 0, where the queue counts half


def is_gate(path: str) -> bool:
  """Whether the parameter at this path holds gates of memory around a stock block."""
  return is_memory_parameter(path) and path.endswith("/gate")


def unmoved(
  before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], steps: int
) -> str | None:
  """A sentence about gates that have hardly moved; None if one of them has, or none is to.

  Args:
    before, after: gates by path, as many heads and channels as there are.
    steps: that lie between.
  """
  moved, way = 0.0, 0.0
  for path, start in before.items():
    if not np.isfinite(start).all():  # hidden
      continue
    moved = max(moved, float(np.abs(after[path] - start).mean()))
    way = max(way, float(np.abs(start).mean()))
  if not steps or moved >= _LEAST * way:
    return None
  return (
    f"gates have moved by at most {moved:.2g} in {steps} steps, and the way to 0, where the queue "
    f"counts half, is {way:.2g}; raise melodi_scalar_learning_rate_multiplier."
  )
