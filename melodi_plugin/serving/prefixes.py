"""Texts that begin as others did: a slot reads only what no slot has read before.

What is found was read by the same programs, and a row does not depend on where a call ended: so a
slot that goes on from it holds the very bits of one that has read everything.
"""

from collections.abc import Callable

import numpy as np

from melodi_plugin.serving.engine import Engine, Row
from melodi_plugin.serving.snapshots import Snapshots


class PrefixReader:
  """Reads texts into slots, and keeps what they remember at the end.

  Attributes:
    snapshots: what is kept, and the counts of hits and of tokens that were saved.
  """

  def __init__(self, engine: Engine, snapshots: Snapshots):
    self._engine, self.snapshots = engine, snapshots

  def read(
    self,
    slot: int,
    tokens: np.ndarray,
    on_tokens: Callable[[int], None] = lambda count: None,
    *,
    start: Row | None = None,
    owner: str = "",
  ) -> int:
    """The slot has read `start` and then `tokens`, and nothing else.

    Args:
      slot: whose state is replaced.
      tokens: int32, all but the pending one.
      on_tokens: told after every call how many tokens it read.
      start: a row before the first token, by default none.
      owner: whose states may be found; it stands for `start`, too.

    Returns:
      How many of the tokens were not read again.
    """
    hit = self.snapshots.longest(tokens, owner) if len(tokens) else None
    found, saved = hit or (start, 0)
    if found is None:
      self._engine.begin(slot)
    else:
      self._engine.insert(slot, found)
    if saved < len(tokens):
      self._engine.read_all({slot: tokens[saved:]}, on_tokens)
      row = self._engine.extract(slot)
      self.snapshots.add(tokens, row, row.bytes, owner)
    return saved
