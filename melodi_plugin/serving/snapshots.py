"""What rows remembered after prefixes that were read before, so that nothing is read twice.

A snapshot is a row's state after exactly its tokens.  It is found by a digest of the tokens and
verified by comparing them, so going on from a hit is the same as having read the prefix now.
"""

import collections
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

Tokens = Int32[np.ndarray, "T"]


class _Key(NamedTuple):
  owner: str
  length: int
  digest: bytes


class _Entry(NamedTuple):
  tokens: Tokens
  state: Any
  size: int  # bytes of the state and of the tokens


class Snapshots:
  """States of prefixes in at most `budget` bytes; the one unused for longest goes first.

  States are opaque and shared with whoever asks for them: nobody may write into one.  For one
  thread.

  Attributes:
    bytes: of all states and of their token ids.
    hits, misses: calls of `longest` that found something, and that did not.
    tokens_saved: tokens that hits did not have to read again.
    evicted: snapshots that had to make room.
  """

  def __init__(self, budget: int):
    self.budget = budget
    self.bytes = self.hits = self.misses = self.tokens_saved = self.evicted = 0
    self._entries: collections.OrderedDict[_Key, _Entry] = collections.OrderedDict()
    self._lengths: dict[str, collections.Counter[int]] = {}  # of each owner's snapshots

  def __len__(self) -> int:
    return len(self._entries)

  def add(self, tokens: Tokens, state: Any, size: int, owner: str = "") -> bool:
    """Keeps the state of a row after exactly these tokens; False if it alone is over the budget.

    Args:
      tokens: all ids that the row has read.
      state: what `longest` gives back.
      size: bytes of the state.
      owner: who may find it: whatever else the state depends on, or must be kept apart by.
    """
    size += tokens.nbytes
    if size > self.budget:
      return False
    (digest,) = _digests(tokens, [len(tokens)])
    key = _Key(owner, len(tokens), digest)
    if key in self._entries:
      self._remove(key)
    while self.bytes + size > self.budget:
      self._remove(next(iter(self._entries)))
      self.evicted += 1
    self._entries[key] = _Entry(tokens.copy(), state, size)
    self._lengths.setdefault(owner, collections.Counter())[key.length] += 1
    self.bytes += size
    return True

  def longest(self, tokens: Tokens, owner: str = "") -> tuple[Any, int] | None:
    """The state after the longest prefix of `tokens` that its owner has here, and its length.

    The last token of a prompt has to be read by the step that generates: leave it out.
    """
    lengths = sorted(n for n in self._lengths.get(owner, ()) if n <= len(tokens))
    keys = [_Key(owner, *own) for own in zip(lengths, _digests(tokens, lengths), strict=True)]
    for key in reversed(keys):
      entry = self._entries.get(key)
      if entry is not None and np.array_equal(entry.tokens, tokens[: key.length]):
        self._entries.move_to_end(key)
        self.hits += 1
        self.tokens_saved += key.length
        return entry.state, key.length
    self.misses += 1
    return None

  def _remove(self, key: _Key) -> None:
    self.bytes -= self._entries.pop(key).size
    lengths = self._lengths[key.owner]
    lengths[key.length] -= 1
    if not lengths[key.length]:
      del lengths[key.length]
    if not lengths:
      del self._lengths[key.owner]


def _digests(tokens: Tokens, lengths: Sequence[int]) -> Iterator[bytes]:
  """Of the first tokens, as many as each of the rising `lengths` says; every token read once."""
  running, start = hashlib.blake2b(digest_size=16), 0
  for length in lengths:
    running.update(np.ascontiguousarray(tokens[start:length]))
    start = length
    yield running.copy().digest()
