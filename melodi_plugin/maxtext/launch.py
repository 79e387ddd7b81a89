"""What our launchers share: the config, one readable sentence for its errors, a quiet end."""

import atexit
import difflib
import gc
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import pydantic

from melodi_plugin.data.corpus.presets import prepare_corpus
from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.data.row import StateMismatch
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext.registration import UnsupportedMaxText, register
from melodi_plugin.training.progress import quiet_checkpoint_log


def load_config(argv: Sequence[str]) -> Any:
  """Registers the plugin and reads a MaxText config; a bad one is a UserError."""
  atexit.register(_collect)
  try:
    register()
    from maxtext.configs import pyconfig  # after registration

    return pyconfig.initialize(list(argv))
  except pydantic.ValidationError as error:
    lines = [f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
    raise UserError("\n".join(lines)) from error
  except FileNotFoundError as error:
    raise UserError(f"cannot read the configuration: {error.filename} does not exist.") from error
  except (ValueError, TypeError, OSError, UnsupportedMaxText) as error:
    raise UserError(_short(str(error))) from error


def _short(message: str) -> str:
  """MaxText answers an unknown key with the list of all keys it has; one near it says more."""
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


def prepare(config: Any) -> None:
  """Writes the corpus of `melodi_prepare_data` into the folder of `grain_train_files`."""
  prepare_corpus(config.melodi_prepare_data, pathlib.Path(config.grain_train_files).parent)


def train(argv: Sequence[str]) -> Any:
  """Trains with MaxText's trainer, after the demo corpus was written; returns the config."""
  quiet_checkpoint_log()
  config = load_config(argv)
  from maxtext.trainers.pre_train import train as trainer  # after registration

  if config.melodi_prepare_data:
    prepare(config)
  try:
    trainer.main(argv)
  except (BrokenDocument, StateMismatch) as error:
    raise UserError(str(error)) from error
  return config


def compile_ahead(argv: Sequence[str]) -> None:
  """Compiles for the topology of the config with MaxText's `train_compile`."""
  load_config(argv)  # MaxText reads it once more, but says less about what is wrong
  from maxtext.trainers.pre_train import train_compile  # after registration

  train_compile.main(argv)
