"""What is measured of a server."""

from typing import NamedTuple


class Rate(NamedTuple):
  """Tokens per second of all clients together, one client per slot.

  Attributes:
    slots: of the server.
    rates: of every repetition.
  """

  slots: int
  rates: list[float]


class First(NamedTuple):
  """Seconds from a request to its first token.

  Attributes:
    cold: prompts that were never read.
    warm: the same prompts with another end.
  """

  cold: list[float]
  warm: list[float]


class Gaps(NamedTuple):
  """Seconds between two tokens of one client.

  Attributes:
    alone: while nobody else asks.
    beside: while another client's long prompt is read.
  """

  alone: list[float]
  beside: list[float]
