"""What our launchers share: the config, one readable sentence for its errors, a quiet end."""

import atexit
import gc
import sys
from collections.abc import Sequence
from typing import Any

import pydantic

from melodi_plugin.registration import UnsupportedHost, register


def load_config(argv: Sequence[str]) -> Any:
  """Registers the plugin and reads a MaxText config; a bad one ends the program with status 2."""
  atexit.register(_collect)
  try:
    register()
    from maxtext.configs import pyconfig

    return pyconfig.initialize(list(argv))
  except pydantic.ValidationError as error:
    lines = [f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
    stop("\n".join(lines))
  except (ValueError, TypeError, OSError, UnsupportedHost) as error:
    stop(str(error))


def stop(sentence: str) -> None:
  """Ends the program with status 2 and one sentence on standard error."""
  print(f"error: {sentence}", file=sys.stderr)
  sys.exit(2)


def _collect() -> None:
  """Closes MaxText's data loader while the interpreter still can: its `__del__` reads files."""
  for name in ("last_exc", "last_value", "last_traceback"):
    if hasattr(sys, name):
      delattr(sys, name)
  gc.collect()
