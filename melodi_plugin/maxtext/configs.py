"""MaxText configs, read; what is wrong with one in one sentence."""

import atexit
import contextlib
import difflib
import gc
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic
import pydantic_core
import yaml

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.machine import (
  check_files,
  check_fits,
  every_chip_draws_its_own,
  on_this_machine,
)
from melodi_plugin.maxtext.registration import UnsupportedMaxText, register
from melodi_plugin.maxtext.run_log import off_the_screen

# Keys of MaxText that name runs and files, and how its files say that there is none.
_NAMES = {
  "run_name",
  "base_output_directory",
  "grain_train_files",
  "grain_eval_files",
  "tokenizer_path",
  "load_parameters_path",
  "load_full_state_path",
  "metrics_file",
}
_NULLS = ("null", "~", "''", '""')


def load_config(argv: Sequence[str], *, here: bool = True) -> Any:
  """Registers the plugin and reads a MaxText config.

  Args:
    argv: a word that is not read, the config, and key=value.
    here: whether the model is to run on this machine, and not only to be described.

  Raises:
    UserError: for a config that is wrong.
  """
  with off_the_screen():
    return read_config(argv, here=here)


def read_config(argv: Sequence[str], *, here: bool) -> Any:
  """As `load_config`, and what MaxText says goes where it will."""
  every_chip_draws_its_own()
  atexit.unregister(_collect)  # once, however many configs are read: it looks at every object
  atexit.register(_collect)
  with _config_errors():
    register()
    from maxtext.configs import pyconfig  # after registration

    check_files(argv)
    # Where nothing is run, MaxText need not look for other processes.
    argv = on_this_machine(argv) if here else [*argv, "skip_jax_distributed_system=true"]
    argv = _texts_as_written(argv)
    # Not `initialize`, which prints every error, with all keys that there are, and exits.
    config = pyconfig.HyperParameters(pyconfig._initialize_pydantic(argv))
    if here:
      check_fits(config)
    return config


def _texts_as_written(argv: Sequence[str]) -> list[str]:
  """Quotes what stands behind a key of text: MaxText reads it as YAML, where `a: b` is none.

  Names of runs and paths too: YAML has no text in `run_name=007`, and none in `*.txt`.
  """
  texts = {name for name, field in MelodiKeys.model_fields.items() if field.annotation is str}
  texts |= {"prompt", "chat_template"}
  words = []
  for word in argv:
    key, equals, value = word.partition("=")
    named = key in _NAMES and value not in _NULLS and "${" not in value
    words.append(f'{key}="{_quoted(value)}"' if equals and (named or key in texts) else word)
  return words


def _quoted(text: str) -> str:
  """As YAML writes it between quotation marks, and OmegaConf takes no ${name} for another key."""
  text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
  return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
  try:
    yield
  except pydantic.ValidationError as error:
    raise UserError("\n".join(map(_line, error.errors()))) from error
  except yaml.YAMLError as error:
    raise UserError(f"the configuration is not YAML: {' '.join(str(error).split())}.") from error
  except UnicodeDecodeError as error:
    raise UserError(f"the configuration is not text in UTF-8: {error}.") from error
  except FileNotFoundError as error:
    raise UserError(f"cannot read the configuration: {error.filename} does not exist.") from error
  except (ValueError, TypeError, OSError, UnsupportedMaxText) as error:
    raise UserError(_short(str(error))) from error


def _line(error: pydantic_core.ErrorDetails) -> str:
  """What is wrong with one key; our own sentences name theirs."""
  said = error["msg"].removeprefix("Value error, ")
  return f"{'.'.join(map(str, error['loc']))}: {said}" if error["loc"] else said


def _short(message: str) -> str:
  """A sentence where MaxText has none, or one that lists all its keys."""
  if message.startswith("coordinator_address"):
    return "hardware=tpu is set, but there is no TPU here; leave hardware out, or set hardware=cpu."
  found = re.fullmatch(r"'(\w+)' not in (.+)\.", message)
  if not found:
    return message
  key, known = found[1], re.findall(r"'(\w+)'", found[2])
  near = difflib.get_close_matches(key, known, n=1)
  hint = f"; did you mean {near[0]}?" if near else "."
  return f"{key} is not a key of MaxText or of melodi_plugin{hint}"


def _collect() -> None:
  """Closes MaxText's data loader while the interpreter still can: its `__del__` reads files."""
  for name in ("last_exc", "last_value", "last_traceback"):
    if hasattr(sys, name):
      delattr(sys, name)
  gc.collect()
