"""What a seam is, and the few tools that every seam needs."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

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
  """Whether a MaxText config asks for a MELODI decoder."""
  block = getattr(config, "decoder_block", None)
  return getattr(block, "value", block) == BLOCK


def replace(owner: Any, name: str, new: Any) -> Undo:
  """Sets an attribute; returns how to set it back."""
  old = getattr(owner, name)
  setattr(owner, name, new)
  return lambda: setattr(owner, name, old)


def parameters(function: Any, *expected: str) -> str | None:
  """What differs if `function` does not begin with the expected parameters."""
  found = tuple(inspect.signature(function).parameters)
  return None if found[: len(expected)] == expected else f"takes {found}, not {expected}"
