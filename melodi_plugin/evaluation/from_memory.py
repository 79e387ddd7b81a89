"""Reads documents with a memory that was made before: the loss of every token after it.

A segment cannot begin inside a window, and a memory file can; so documents are read by the engine
of `serving`, from the same state every one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.data.rows import StickyRows
from melodi_plugin.evaluation.reading import ScoredDocument
from melodi_plugin.serving.checkpoint import Checkpoint


class MemoryScorer:
  """As `reading.Scorer`, with `melodi_memory_file` in front of every document.

  Attributes:
    rows: documents that are read at a time.
    segment: tokens of one that a call reads.
    batches_read: calls of the last `score`, as far as it has come.
  """

  def __init__(self, config: Any, *, rows: int):
    """Loads the checkpoint and the memory; raises ValueError."""
    if config.melodi_reset_every_window:
      raise ValueError(
        "melodi_reset_every_window=true forgets what melodi_memory_file holds; leave one of them "
        "out."
      )
    self._checkpoint = Checkpoint(config, rows, scores=True)
    self._row, self._saved = self._checkpoint.load_memory(config.melodi_memory_file)
    programs = self._checkpoint.engine.programs
    self.rows, self.segment, self.batches_read = rows, programs.read_tokens, 0

  def score(
    self, batches: StickyRows, on_tokens: Callable[[int], None] = lambda count: None
  ) -> Iterator[ScoredDocument]:
    """See `Scorer.score`; documents are taken from `batches.source`, one after another."""
    self.batches_read = 0
    engine, waiting = self._checkpoint.engine, self._documents(batches)
    in_slots: dict[int, _Scoring] = {}
    free = list(range(self.rows))
    while True:
      while free and (scoring := next(waiting, None)):
        in_slots[free[0]] = scoring
        engine.insert(free[0], self._row)
        engine.read_all({free.pop(0): np.array(self._saved.pending, np.int32)})
      if not in_slots:
        return
      now = dict(list(in_slots.items())[: engine.programs.read_rows[-1]])
      pieces = {slot: own.next(self.segment) for slot, own in now.items()}
      targets = {slot: own.next(self.segment, 1) for slot, own in now.items()}
      scores = engine.score(pieces, targets)
      self.batches_read += 1
      on_tokens(sum(map(len, pieces.values())))
      for number, slot in enumerate(now):
        scoring, count = in_slots.pop(slot), len(targets[slot])
        nats, hits = map(np.asarray, (-scores.logprobs[number], scores.hits[number]))
        scoring.take(pieces[slot], nats[:count], hits[:count])
        if scoring.done:
          free.append(slot)
          yield scoring.result()
        else:
          in_slots[slot] = scoring

  def _documents(self, batches: StickyRows) -> Iterator["_Scoring"]:
    for index in range(len(batches.source)):
      tokens = batches.ahead.reader(index)
      if not isinstance(tokens, BrokenDocument):
        yield _Scoring(index, batches.source[index], tokens.ids)
      elif batches.on_broken is None:
        raise tokens
      else:
        batches.on_broken(tokens)


class _Scoring:
  """A document in a slot."""

  def __init__(self, index: int, document: Any, ids: np.ndarray):
    self._index, self._document, self._ids = index, document, ids
    self._at = 0
    self._nats: list[np.ndarray] = []
    self._hits: list[np.ndarray] = []

  def next(self, count: int, shift: int = 0) -> np.ndarray:
    """The next tokens, or those `shift` behind them."""
    return self._ids[self._at + shift : self._at + shift + count]

  def take(self, piece: np.ndarray, nats: np.ndarray, hits: np.ndarray) -> None:
    """Counts tokens that were read."""
    self._at += len(piece)
    self._nats.append(nats)
    self._hits.append(hits)

  @property
  def done(self) -> bool:
    """Whether all of it was read."""
    return self._at >= len(self._ids)

  def result(self) -> ScoredDocument:
    """What was found."""
    nats, hits = np.concatenate(self._nats), np.concatenate(self._hits)
    return ScoredDocument(
      self._index, self._document.id, self._document.text, self._ids, nats, hits
    )
