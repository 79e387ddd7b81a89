"""`melodi VERB …`: finds the verb, reads its command line, runs it."""

import difflib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from melodi_plugin.cli.commands import COMMANDS, TASKS, Command
from melodi_plugin.errors import UserError, exit_status

_HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one verb; returns the exit status."""
  words = list(sys.argv[1:] if argv is None else argv)
  return exit_status(lambda: _run(words))


def _run(words: list[str]) -> int | None:
  if not words or words[0] in _HELP:
    print(_overview(COMMANDS), end="")
    return 0
  if words[0] == "--version":
    print(_version())
    return 0
  group = [command for command in COMMANDS if command.name.startswith(f"{words[0]} ")]
  if group and (not words[1:] or words[1] in _HELP):
    print(_overview(group), end="")
    return 0
  command = _find(" ".join(words[: 2 if group else 1]))
  parser, arguments = command.parser(), words[2 if group else 1 :]
  if any(word in _HELP for word in arguments):
    print(parser.format_help(), end="")
    return 0
  options = parser.read(arguments)
  # Read when transformers is imported, which then talks of models that nobody here uses.
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  return _function(command.target)(options)


def _find(name: str) -> Command:
  for command in COMMANDS:
    if command.name == name:
      return command
  near = difflib.get_close_matches(name, [command.name for command in COMMANDS], n=1)
  hint = f"did you mean {near[0]}?" if near else "`melodi --help` lists them."
  raise UserError(f"there is no verb {name}; {hint}")


def _function(target: str) -> Callable[[Any], int | None]:
  module, name = target.split(".")
  return getattr(importlib.import_module(f"melodi_plugin.cli.{module}"), name)


def _overview(commands: Sequence[Command]) -> str:
  """The verbs, by task."""
  lines = ["usage: melodi VERB ...", "", "MELODI memory for MaxText."]
  for task in TASKS:
    verbs = [command for command in commands if command.task == task]
    lines += ["", f"{task}:"] if verbs else []
    lines += [f"  {command.name:<18}{command.summary}" for command in verbs]
  return "\n".join([*lines, "", "`melodi VERB --help` says what a verb takes.", ""])


def _version() -> str:
  names = ("melodi-plugin", "maxtext", "jax")
  return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
