"""What a seam is, and the few tools that every seam needs."""

import enum
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


def probe_member(members: type[enum.Enum], value: str) -> str | None:
  """What keeps an enum from getting a member of this value."""
  for table in ("_member_names_", "_member_map_", "_value2member_map_"):
    if table not in vars(members):
      return f"has no {table}"
  if value in vars(members)["_value2member_map_"]:
    return f"already has a member {value!r}"
  return None


def add_member(members: type[enum.Enum], value: str) -> Undo:
  """Gives an enum one more member, named after its value."""
  mixin = members._member_type_  # `str` in an enum of strings
  member = object.__new__(members) if mixin is object else mixin.__new__(members, value)
  member._name_, member._value_ = value.upper(), value
  member.__objclass__, member._sort_order_ = members, len(members)
  members._member_names_.append(member._name_)
  members._member_map_[member._name_] = member
  members._value2member_map_[value] = member
  type.__setattr__(members, member._name_, member)

  def undo() -> None:
    members._member_names_.remove(member._name_)
    del members._member_map_[member._name_], members._value2member_map_[value]
    type.__delattr__(members, member._name_)

  return undo
