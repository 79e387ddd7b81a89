"""What MaxText and its libraries say goes into a file of the run, and off the screen."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from absl import logging as absl_logging

from melodi_plugin.errors import UserError, is_full

# Warnings of how MaxText calls Orbax, and of a key that an error says better.
_UNTOLD = ("is deprecated", "Ignoring invalid/unsupported field")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunLog(io.TextIOBase):
  """A text stream that keeps what is written until it is told where to."""

  def __init__(self):
    self._stream: TextIO = io.StringIO()

  def write(self, text: str) -> int:
    """Keeps, or writes, the text; a full disk loses it."""
    with _unless_full():
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Writes what the system still holds."""
    with _unless_full():
      self._stream.flush()

  def open(self, folder: str, process: int = 0) -> None:
    """Appends to `folder`/log.txt from now on; a remote folder's log is standard error.

    Raises:
      UserError: if the folder cannot be written.
      OSError: if its disk is full.
    """
    kept = self._stream.getvalue() if isinstance(self._stream, io.StringIO) else ""
    if "://" in folder:
      self._stream = sys.stderr  # which launchers of jobs collect
    else:
      name = f"log_{process}.txt" if process else "log.txt"
      try:
        os.makedirs(folder, exist_ok=True)
        self._stream = open(os.path.join(folder, name), "a", encoding="utf-8", buffering=1)  # noqa: SIM115, closed by `close`
      except OSError as error:
        if is_full(error):
          raise
        raise UserError(
          f"{folder} cannot be written ({error.strerror}); set base_output_directory to a folder "
          "of your own."
        ) from error
    self.write(kept)

  def close(self) -> None:
    """Ends the file; what is still written is lost."""
    ended, self._stream = self._stream, io.StringIO()
    if ended is not sys.stderr:
      with _unless_full():
        ended.close()


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
  """A log that cannot be written ends no training: what has to be saved says what is wrong."""
  try:
    yield
  except OSError as error:
    if not is_full(error):
      raise


@contextlib.contextmanager
def off_the_screen() -> Iterator[RunLog]:
  """Takes standard output and all log records; warnings that a user can act on are shown too."""
  log, root = RunLog(), logging.getLogger()
  handlers, level, verbosity = root.handlers, root.level, absl_logging.get_verbosity()
  file, screen = logging.StreamHandler(log), logging.StreamHandler(sys.stderr)
  file.setFormatter(logging.Formatter(_FORMAT))
  screen.setFormatter(_Sentence())
  screen.addFilter(_matters)
  root.handlers = [file, screen]
  root.setLevel(logging.INFO)
  absl_logging.set_verbosity(absl_logging.INFO)
  logging.captureWarnings(True)
  try:
    with contextlib.redirect_stdout(log):
      yield log
  finally:
    root.handlers = handlers
    root.setLevel(level)
    absl_logging.set_verbosity(verbosity)
    logging.captureWarnings(False)
    log.close()


class _Sentence(logging.Formatter):
  def format(self, record: logging.LogRecord) -> str:
    return f"{record.levelname.lower()}: {record.getMessage()}"


def _matters(record: logging.LogRecord) -> bool:
  """Warnings of ours and MaxText's, but for how it calls others, and anybody's errors."""
  if any(words in record.getMessage() for words in _UNTOLD):
    return False
  ours = any(f"/{package}/" in record.pathname for package in ("melodi_plugin", "maxtext"))
  return record.levelno >= (logging.WARNING if ours else logging.ERROR)
