"""Cases of tests, of which a few run by default."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def broad_but(
  default: Collection[Any], cases: Iterable[Any], *, slow: Collection[Any] = ()
) -> list[Any]:
  """Parameters of a test: the first of their kinds run by default, the further ones are broad.

  Args:
    default: those that `uv run pytest` runs.
    cases: all of them, in their order.
    slow: those of them that only `-m slow` runs.
  """
  cases = list(cases)
  unknown = [case for case in (*default, *slow) if case not in cases]
  assert not unknown, unknown
  marks = lambda case: pytest.mark.slow if case in slow else pytest.mark.broad  # noqa: E731
  return [case if case in default else pytest.param(case, marks=marks(case)) for case in cases]
