"""What goes wrong by a user's hand, and how a program ends then."""

import sys
from collections.abc import Callable


class UserError(Exception):
  """One sentence: what is wrong, where, and what to do."""


def exit_status(program: Callable[[], int | None]) -> int:
  """Runs a program; a `UserError` becomes its sentence on standard error, and status 2."""
  try:
    return program() or 0
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
