"""What a seam is, and the few tools that every seam needs."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from melodi_plugin.config import PAPER

BLOCK = "melodi"

Undo = Callable[[], None]


class Seam(NamedTuple):
  """One place of MaxText.

  Attributes:
    name: of the attribute, below `maxtext`.
    probe: returns what is wrong with the place in this MaxText, or None.
    apply: changes it, and returns how to undo that.
  """

  name: str
  probe: Callable[[], str | None]
  apply: Callable[[], Undo]


def is_melodi(config: Any) -> bool:
  """Whether a MaxText config asks for a MELODI decoder: the paper's, or around a stock block."""
  block = getattr(config, "decoder_block", None)
  return getattr(block, "value", block) == BLOCK or has_base_block(config)


def has_base_block(config: Any) -> bool:
  """Whether memory goes around a block of MaxText; `decoder_block` is then that block."""
  return getattr(config, "melodi_base_block", PAPER) != PAPER


def all_of(undos: Sequence[Undo]) -> Undo:
  """Undoes several changes, the last first."""

  def undo_all() -> None:
    for undo in reversed(undos):
      undo()

  return undo_all


def replace(owner: Any, name: str, new: Any) -> Undo:
  """Sets an attribute; returns how to set it back."""
  old = getattr(owner, name)
  setattr(owner, name, new)
  return lambda: setattr(owner, name, old)


def parameters(function: Any, *expected: str) -> str | None:
  """What differs if `function` does not begin with the expected parameters."""
  found = tuple(inspect.signature(function).parameters)
  return None if found[: len(expected)] == expected else f"takes {found}, not {expected}"
