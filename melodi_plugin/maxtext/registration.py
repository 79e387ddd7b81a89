"""`register()` and `unregister()`: all or nothing, twice is harmless, undone without a trace."""

import importlib.metadata

from melodi_plugin.maxtext.seams.seam import Undo
from melodi_plugin.maxtext.seams.table import SEAMS, VERSION

_undos: list[Undo] = []


class UnsupportedMaxText(RuntimeError):  # noqa: N818, it is MaxText that is unsupported
  """The installed MaxText is not the one that the plugin was written for."""


def register() -> None:
  """Teaches the imported MaxText `decoder_block: melodi` and its keys.

  Nothing on disk changes.  All seams are checked before the first is touched.

  Raises:
    UnsupportedMaxText: if MaxText has another version, or one of its internals looks different.
  """
  if _undos:
    return
  version = importlib.metadata.version("maxtext")
  if version != VERSION:
    raise UnsupportedMaxText(
      f"melodi_plugin works with maxtext=={VERSION}, but {version} is installed; run "
      f"`pip install maxtext=={VERSION}`, or look for a newer melodi-plugin."
    )
  for seam in SEAMS:
    try:
      problem = seam.probe()
    except (ImportError, AttributeError, TypeError, ValueError, OSError) as error:
      problem = f"cannot be read ({error})"
    if problem:
      raise UnsupportedMaxText(
        f"melodi_plugin cannot hook into MaxText {version}: maxtext.{seam.name} {problem}.  Has "
        "MaxText been changed, or another plugin loaded?"
      )
  try:
    for seam in SEAMS:
      _undos.append(seam.apply())
  except BaseException:
    unregister()
    raise


def unregister() -> None:
  """Undoes `register()`."""
  while _undos:
    _undos.pop()()
