"""Modules of users, which register systems and keys before MaxText reads a config that has them."""

import importlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

KEY = "melodi_imports"


def import_systems(argv: Sequence[str], keys: Mapping[str, Any]) -> None:
  """Imports the modules of `melodi_imports`, from beside the config and the current folder, too.

  Raises:
    ValueError: if a module cannot be imported; what importing it raises.
  """
  files = (word for word in argv if word.endswith(".yml") and "=" not in word)
  path = keys.get("base_config") or next(files, "")
  modules = [name.strip() for name in _value(argv, keys, path).split(",") if name.strip()]
  if not modules:
    return
  folders = [os.path.dirname(os.path.abspath(path)), os.getcwd()] if path else [os.getcwd()]
  for folder in reversed(folders):
    if folder not in sys.path:
      sys.path.insert(0, folder)  # as `python -m` does
  for module in modules:
    try:
      importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
      raise ValueError(
        f"{KEY}: {module} cannot be imported: {error}; it is looked for in "
        f"{', '.join(dict.fromkeys(folders))} and among what is installed."
      ) from error


def _value(argv: Sequence[str], keys: Mapping[str, Any], path: str) -> str:
  """What the key will be, whose value is needed before the config can be read."""
  words = dict(word.split("=", 1) for word in argv if "=" in word)
  word = yaml.safe_load(words.get(KEY, ""))  # as MaxText reads it
  given = (word, keys.get(KEY), os.environ.get(f"M_{KEY.upper()}"), *_in_files(path))
  return str(next(filter(None, given), ""))


def _in_files(path: str) -> Iterator[str | None]:
  """What a config says, then the one on which it is based, as far as they are files of a user."""
  import omegaconf
  from maxtext.utils.globals import MAXTEXT_CONFIGS_DIR

  while os.path.isfile(path) and not os.path.samefile(
    os.path.dirname(path) or ".", MAXTEXT_CONFIGS_DIR
  ):
    config: Any = omegaconf.OmegaConf.load(path)
    yield config.get(KEY)
    path = os.path.join(os.path.dirname(path), config.get("base_config") or "")
