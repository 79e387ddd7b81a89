"""What a user has written for a setting, whatever MaxText has made of it."""

import json
from collections.abc import Sequence
from typing import Any

from melodi_plugin.config.memory_keys import Layers


def as_written(setting: Any) -> Any:
  """The value of an enum's member, which is what a user writes; anything else as it is."""
  return getattr(setting, "value", setting)


def parse_layers(name: str, value: Layers | Sequence[int], num_layers: int) -> tuple[int, ...]:
  """Turns 'all', 'middle', 'none', '2,6', 6 or [2, 6] into sorted layer indices.

  MaxText reads the word none as null, and environment variables only as text: hence the forms.
  """
  if value is None or value in ("", "none"):
    return ()
  if value == "all":
    return tuple(range(num_layers))
  if value == "middle":
    return (num_layers // 2,)
  try:
    if isinstance(value, str):
      value = [int(part) for part in value.strip("[]() ").split(",")]
    return tuple(sorted({int(i) for i in ([value] if isinstance(value, int) else value)}))
  except ValueError:
    raise ValueError(
      f"{name}={value!r} is not a list of layers; write 'all', 'middle', 'none', or numbers from "
      "0 such as '2,6'."
    ) from None


def parse_strings(name: str, value: str) -> tuple[str, ...]:
  """A string, or those of a JSON list of strings; '' are none.

  `[END]` is a string: a list begins with a quotation mark.
  """
  if not value:
    return ()
  if not value.lstrip().startswith('["'):
    return (value,)
  try:
    strings = json.loads(value)
  except ValueError:
    strings = None
  if not strings or not all(isinstance(string, str) and string for string in strings):
    raise ValueError(
      f"{name}={value} is not a JSON list of strings, none of them empty; write it as in "
      '["\\n\\n", "User:"], or a single string without brackets.'
    )
  return tuple(strings)


def parse_numbers(written: str) -> tuple[int, ...]:
  """Numbers joined with commas; ValueError if something else stands there."""
  return tuple(int(part) for part in written.split(",") if part.strip())
