"""What our launchers share: the config, one readable sentence for its errors, a quiet end."""

import atexit
import difflib
import gc
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

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
  except FileNotFoundError as error:
    stop(f"cannot read the configuration: {error.filename} does not exist.")
  except (ValueError, TypeError, OSError, UnsupportedHost) as error:
    stop(_short(str(error)))


def _short(message: str) -> str:
  """MaxText answers an unknown key with the list of all keys it has; one near it says more."""
  found = re.fullmatch(r"'(\w+)' not in (.+)\.", message)
  if not found:
    return message
  key, known = found[1], re.findall(r"'(\w+)'", found[2])
  near = difflib.get_close_matches(key, known, n=1)
  hint = f"; did you mean {near[0]}?" if near else "."
  return f"{key} is not a key of MaxText or of melodi_plugin{hint}"


def stop(sentence: str) -> NoReturn:
  """Ends the program with status 2 and one sentence on standard error."""
  print(f"error: {sentence}", file=sys.stderr)
  sys.exit(2)


def _collect() -> None:
  """Closes MaxText's data loader while the interpreter still can: its `__del__` reads files."""
  for name in ("last_exc", "last_value", "last_traceback"):
    if hasattr(sys, name):
      delattr(sys, name)
  gc.collect()
