"""One text, read and written in turns: what is said to a model, and what it answers."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends, Generates, Written, write

_SLOT = 0
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

  def __init__(self, engine: Reads, tokenizer: Tokenizer, settings: SamplingSettings):
    self._engine, self._tokenizer, self._settings = engine, tokenizer, settings
    self.read_tokens = self.written_tokens = 0
    self.read_seconds = self.written_seconds = 0.0
    self.restart()

  def restart(self) -> None:
    """Forgets everything."""
    self._engine.begin(_SLOT)
    self._engine.sample_with(_SLOT, self._settings)
    self.pending: list[int] = []

  def read(self, ids: Sequence[int], on_tokens: Callable[[int], None] = lambda count: None) -> None:
    """Reads tokens, all but the last, which `write` reads."""
    began = time.monotonic()
    *known, last = [*self.pending, *ids] or [None]
    if last is None:
      raise ValueError("there is nothing to go on from: the prompt is empty; write some text.")
    self._engine.read_all({_SLOT: np.array(known, np.int32)}, on_tokens)
    self.pending = [last]
    self._before = known[-_SHOWN:]
    self.read_tokens += len(known)
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
