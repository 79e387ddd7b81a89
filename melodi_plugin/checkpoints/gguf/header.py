"""Keys and values of a GGUF file, which may be missing or hold anything."""

import math
from typing import Any, NoReturn


class Header(dict[str, Any]):
  """Keys and values; one that is not there, or not what it should be, is a ValueError."""

  def __missing__(self, key: str) -> NoReturn:
    raise ValueError(f"there is no {key}; the file is broken.")

  def count(self, key: str, default: int | None = None) -> int:
    """A whole number above 0."""
    return self._checked(key, default, "a whole number above 0", lambda v: type(v) is int and v > 0)

  def positive(self, key: str, default: float | None = None) -> float:
    """A finite number above 0."""
    numbers = (int, float)
    return self._checked(
      key, default, "a number above 0", lambda v: type(v) in numbers and 0 < v < math.inf
    )

  def strings(self, key: str) -> list[str]:
    """A list of strings, not empty."""
    return self._checked(
      key,
      None,
      "a list of strings",
      lambda v: isinstance(v, list) and v and all(isinstance(part, str) for part in v),
    )

  def _checked(self, key: str, default: Any, what: str, is_right: Any) -> Any:
    value = self[key] if default is None else self.get(key, default)
    if not is_right(value):
      raise ValueError(f"{key} is {str(value)[:80]!r} and not {what}; the file is broken.")
    return value
