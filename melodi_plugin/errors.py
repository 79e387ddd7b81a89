"""What goes wrong by a user's hand, and how a program ends then."""

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

# What XLA says on GPU, TPU (while it compiles) and CPU, whoever passes it on.
_OUT_OF_MEMORY = re.compile(
  r"RESOURCE_EXHAUSTED: [^\n]*?"
  r"((?:(?:Ran o|O)ut of memory|Error allocating|Failed to alloc)[^\n\[]*)"
)
# How gloo, NCCL and JAX's coordination service say that another process of the job is gone.
_LOST = re.compile(
  r"[^\n]*(?:Gloo \w+ failed|ncclRemoteError|CoordinationServiceError|heartbeat timeout)[^\n]*"
)
_FULL = "No space left on device"
# Errors of this machine, and of a store that does not answer: what they concern may be whole.
_OF_THE_MACHINE = (
  *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
  *(errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EHOSTDOWN),
)
_OF_A_STORE = (
  *("PERMISSION_DENIED", "UNAUTHENTICATED"),
  *("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
)
# TensorStore's errors are ValueErrors with a status, or with the number of one of the system.
_STATUS = re.compile(r"[A-Z_]+: ")  # DATA_LOSS, NOT_FOUND, ...
_NUMBER = re.compile(r"os_error_code='(\d+)'")
# How TensorStore names the file, and how Python does where its error has become text.
_FULL_FILE = re.compile(rf"\"(/[^\"\n]+)\"[^\n]*{_FULL}|{_FULL}[^\n]*?: '(/[^'\n]+)'")


class UserError(Exception):
  """One sentence: what is wrong, where, and what to do."""

  status = 2


class Interrupted(UserError):  # noqa: N818, nothing is wrong
  """The user has stopped the program; says what became of the work."""

  status = 130  # 128 + SIGINT, as shells count


class Terminated(Interrupted):
  """A scheduler has stopped the program; the same command goes on."""

  status = 143  # 128 + SIGTERM


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
  """Errors of these kinds become a `UserError`: libraries raise them with a sentence."""
  try:
    yield
  except kinds as error:
    raise UserError(_sentence(error)) from error


def is_full(error: BaseException | None) -> bool:
  """Whether a full disk has caused an error, of Python or of a library that reports it as text."""
  return any(map(_says_full, _causes(error)))


def unwritten(error: BaseException | None) -> str | None:
  """The file that a full disk has not taken, where the error or a cause of it says which."""
  for cause in filter(_says_full, _causes(error)):
    if isinstance(cause, OSError) and cause.filename:
      return str(cause.filename)
    if found := _FULL_FILE.search(str(cause)):
      return found[1] or found[2]
  return None


def is_of_the_moment(error: BaseException | None) -> bool:
  """Whether what could not be read may be whole: this machine, or a store, cannot read it now."""
  return any(map(_says_not_now, _causes(error)))


def is_of_storage(error: BaseException) -> bool:
  """Whether it is of files: Python's, TensorStore's, or one of JSON that is damaged."""
  if isinstance(error, OSError | json.JSONDecodeError | UnicodeDecodeError):
    return True
  said = str(error)
  return isinstance(error, ValueError) and bool(_STATUS.match(said) or _NUMBER.search(said))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _says_full(error: BaseException) -> bool:
  full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
  return full or _FULL in str(error)


def _says_not_now(error: BaseException) -> bool:
  numbers = [int(number) for number in _NUMBER.findall(str(error))]
  if isinstance(error, OSError) and error.errno:
    numbers.append(error.errno)
  of_store = any(word in str(error) for word in _OF_A_STORE)
  return of_store or any(number in _OF_THE_MACHINE for number in numbers)


def _sentence(error: Exception) -> str:
  """Its message; what the system says of a file begins with the file, not with a number."""
  if isinstance(error, OSError) and error.strerror and error.filename:
    return f"{error.filename}: {error.strerror}."
  return str(error)


def _out_of_memory(error: Exception) -> UserError | None:
  """The sentence for an error that says that a device's memory is too small."""
  said = _OUT_OF_MEMORY.search(str(error))
  return said and UserError(
    f"the device cannot hold this: {said[1].rstrip(' .')}; lower per_device_batch_size or "
    "max_target_length, or use more devices."
  )


def _lost_process(error: Exception) -> str | None:
  """The sentence for an error that says that another process of the same job is gone."""
  found = next(filter(None, (_LOST.search(str(cause)) for cause in _causes(error))), None)
  if found is None:
    return None
  reason = re.sub(r" ?\[[^\]]*(?:/|=)[^\]]*\]", "", found[0]).strip(" .")[:200]
  return (
    f"another process of this job has ended or cannot be reached ({reason}); see what it says, and "
    "start all of them again: training goes on from its last checkpoint."
  )


def exit_status(program: Callable[[], int | None]) -> int:
  """Runs a program; a `UserError` becomes its sentence on standard error, and its status."""
  try:
    return program() or 0
  except Interrupted as end:
    print(f"interrupted: {end}", file=sys.stderr)
    return end.status
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return error.status
  except KeyboardInterrupt:
    print("interrupted.", file=sys.stderr)
    return Interrupted.status
  except Exception as error:
    if lost := _lost_process(error):
      print(f"error: {lost}", file=sys.stderr)
      _end_at_once(UserError.status)
    if (sentence := _out_of_memory(error)) is None:
      raise
    print(f"error: {sentence}", file=sys.stderr)
    return sentence.status


def _end_at_once(status: int) -> NoReturn:
  """Waits for nobody: else JAX waits for all processes, and aborts where one is gone."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
