"""One text, read and written in turns: what is said to a model, and what it answers."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.serving.engine import Row
from melodi_plugin.serving.prefixes import PrefixReader
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends, Generates, Written, write

_SLOT = 0
OnTokens = Callable[[int], None]
_SHOWN = 16  # tokens before an answer, by which its first word knows whether a space is due


@runtime_checkable
class Reads(Generates, Protocol):
  """An `Engine`, or a stock decoder in its place."""

  def begin(self, slot: int) -> None:
    """See `Engine.begin`."""
    ...

  def read_all(self, texts: dict[int, np.ndarray], on_tokens: Callable[[int], None]) -> None:
    """See `Engine.read_all`."""
    ...

  def sample_with(self, slot: int, settings: SamplingSettings) -> None:
    """See `Engine.sample_with`."""
    ...


class Session:
  """A text in progress.

  Attributes:
    pending: tokens at its end that were not read yet.
    read_tokens, read_seconds: of prompts, and how long they took.
    written_tokens, written_seconds: of answers.
  """

  def __init__(
    self,
    engine: Reads,
    tokenizer: Tokenizer,
    settings: SamplingSettings,
    *,
    prefixes: PrefixReader | None = None,
    start: Row | None = None,
    pending: Sequence[int] = (),
  ):
    """Begins a text.

    Args:
      engine: whose first slot reads and writes.
      tokenizer: makes text of tokens.
      settings: how tokens are drawn.
      prefixes: of this engine, so that `read_anew` reads little.
      start: what was read before, where there are `prefixes`.
      pending: the tokens behind it that were not read yet.
    """
    self._engine, self._tokenizer = engine, tokenizer
    self._prefixes, self._start, self._behind_start = prefixes, start, tuple(pending)
    self.pending, self._before = list(pending), list[int]()
    self.read_tokens = self.written_tokens = 0
    self.read_seconds = self.written_seconds = 0.0
    engine.sample_with(_SLOT, settings)
    self._read_from_start(np.zeros(0, np.int32))

  def read(self, ids: Sequence[int], on_tokens: OnTokens = lambda count: None) -> None:
    """Reads tokens, all but the last, which `write` reads."""

    def go_on(known: np.ndarray, on_tokens: OnTokens) -> int:
      self._engine.read_all({_SLOT: known}, on_tokens)
      return 0

    self._read([*self.pending, *ids], go_on, on_tokens)

  def read_anew(self, ids: Sequence[int], on_tokens: OnTokens = lambda count: None) -> None:
    """Forgets all that was read and written, and reads a whole text in its place.

    What begins as a text that was read like this before is not read again.
    """
    self._read([*self._behind_start, *ids], self._read_from_start, on_tokens)

  def _read_from_start(self, known: np.ndarray, on_tokens: OnTokens = lambda count: None) -> int:
    """Returns how many tokens were not read again."""
    if self._prefixes is not None:
      return self._prefixes.read(_SLOT, known, on_tokens, start=self._start)
    self._engine.begin(_SLOT)
    self._engine.read_all({_SLOT: known}, on_tokens)
    return 0

  def _read(
    self, ids: Sequence[int], reads: Callable[[np.ndarray, OnTokens], int], on_tokens: OnTokens
  ) -> None:
    if not ids:
      raise ValueError("there is nothing to go on from: the prompt is empty; write some text.")
    began, known = time.monotonic(), ids[:-1]
    saved = reads(np.array(known, np.int32), on_tokens)
    self.pending = [ids[-1]]
    self._before = known[-_SHOWN:]
    self.read_tokens += len(known) - saved
    self.read_seconds += time.monotonic() - began

  def write(self, ends: Ends) -> Iterator[Written]:
    """Writes on from what was read, and can be read on from after that."""
    began, (last,) = time.monotonic(), self.pending
    before = [*self._before, last]
    for written in write(self._engine, _SLOT, last, ends, self._tokenizer, before):
      self.pending = [written.drawn.token]
      self.written_tokens += 1
      self.written_seconds += time.monotonic() - began
      yield written
      began = time.monotonic()
