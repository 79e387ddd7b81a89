"""The one way in which a command line is read: words, options, and MaxText's `key=value`."""

import argparse
import contextlib
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from melodi_plugin.errors import UserError

_SETTING = re.compile(r"[A-Za-z_][\w.]*=")
_COLUMNS = 100


class Key(NamedTuple):
  """A `key=value` that a verb reads itself.

  Attributes:
    name: before the equals sign.
    default: as it would be typed.
    help: what it means.
    type: what makes a value of the text; raises ValueError for a wrong one.
  """

  name: str
  default: str
  help: str
  type: Callable[[str], Any] = str


class Parser(argparse.ArgumentParser):
  """argparse, with keys, one example, and errors as a `UserError`."""

  def __init__(self, prog: str, description: str, example: str):
    super().__init__(
      prog=prog,
      description=description,
      formatter_class=_Formatter,
      allow_abbrev=False,
    )
    self._example = example
    self._own: dict[str, Key] = {}
    self._listed: Callable[[], Sequence[tuple[str, str]]] = lambda: ()
    self._any_key = False

  def add_key(self, name: str, default: str, text: str, type: Callable[[str], Any] = str) -> None:
    """Takes `name=value` out of the words, wherever it stands."""
    self._own[name] = Key(name, default, text, type)

  def add_config(
    self,
    listed: Callable[[], Sequence[tuple[str, str]]] = lambda: (),
    *,
    several: bool = False,
    optional: bool = False,
  ) -> None:
    """Takes a config (or several) and any `key=value` of MaxText or ours.

    Args:
      listed: gives the keys that the help shows, and what they mean; called for the help only.
      several: the attribute is `configs`, a list, instead of `config`.
      optional: there may be none.
    """
    self._any_key, self._listed = True, listed
    words = {"metavar": "cfg.yml", "type": config_path, "help": "a config; key=value sets its keys"}
    if several:
      self.add_argument("configs", nargs="+", **words)
    else:
      self.add_argument("config", nargs="?" if optional else None, **words)

  def read(self, words: Sequence[str]) -> argparse.Namespace:
    """What the words say: `keys` for MaxText, all `words` as they came; raises UserError."""
    settings = dict.fromkeys(word for word in words if self._takes(word))
    options = self.parse_intermixed_args([word for word in words if word not in settings])
    given = {key.name: key.default for key in self._own.values()}
    options.words, options.keys = list(words), []
    for word in settings:
      name, _, value = word.partition("=")
      if name in given:
        given[name] = value
      else:
        options.keys.append(word)
    for name, value in given.items():
      setattr(options, name, self._value(self._own[name], value))
    return options

  def _takes(self, word: str) -> bool:
    return word.partition("=")[0] in self._own or (
      self._any_key and _SETTING.match(word) is not None
    )

  def _value(self, key: Key, text: str) -> Any:
    try:
      return key.type(text)
    except ValueError as error:
      raise UserError(f"{key.name}={text} {error}.") from None

  def error(self, message: str) -> NoReturn:
    """Called by argparse; it says what is wrong, and we where to look."""
    raise UserError(f"{message}; `{self.prog} --help` shows how it is called.")

  def format_usage(self) -> str:
    """As argparse does, and that there are keys."""
    return super().format_usage().rstrip() + self._more() + "\n"

  def format_help(self) -> str:
    """As argparse does, then keys and the example."""
    own = [(f"{key.name}={key.default}", key.help) for key in self._own.values()]
    listed = [*own, *self._listed()]
    usage = super().format_usage()
    text = super().format_help().replace(usage, self.format_usage(), 1)
    if listed:
      text += "\nkeys:\n" + "".join(_row(name, what) for name, what in listed)
    return f"{text}\nexample:\n{textwrap.indent(self._example, '  ')}\n"

  def _more(self) -> str:
    own = [f" [{key.name}={key.default}]" for key in self._own.values()]
    return "".join([*own, " [key=value ...]" if self._any_key else ""])


class _Formatter(argparse.HelpFormatter):
  """As wide as our lines, whatever the terminal."""

  def __init__(self, prog: str):
    super().__init__(prog, max_help_position=32, width=_COLUMNS)


def _row(name: str, text: str) -> str:
  """A key and what it means, in the columns of argparse."""
  margin = " " * 32
  lines = textwrap.wrap(text, _COLUMNS - len(margin)) or [""]
  if len(name) > 28:
    return "\n".join([f"  {name}", *(margin + line for line in lines)]) + "\n"
  return "\n".join([f"  {name:<30}{lines[0]}", *(margin + line for line in lines[1:])]) + "\n"


def config_path(path: str) -> str:
  """The path of a config that is there; raises UserError."""
  if path.endswith(".yaml"):
    raise UserError(f"{path} cannot be read: MaxText reads .yml only; rename it.")
  if not path.endswith(".yml"):
    raise UserError(f"{path} is neither a config (.yml) nor key=value.")
  # MaxText looks for its own configs under this prefix, wherever it is installed.
  if not os.path.isfile(path) and not path.startswith("src/maxtext/configs/"):
    raise UserError(f"there is no config {path} (looked in {os.getcwd()}).")
  return path


def true_or_false(text: str) -> bool:
  """A switch, as YAML writes it."""
  if text.lower() not in ("true", "false"):
    raise ValueError("is neither true nor false")
  return text.lower() == "true"


def share(text: str) -> float:
  """A part above 0, at most 1."""
  with contextlib.suppress(ValueError):
    if 0 < float(text) <= 1:
      return float(text)
  raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and at most 1")


def positive(text: str) -> int:
  """A whole number above 0."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
  return int(text)
