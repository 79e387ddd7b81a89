"""One thread that owns the device, and deals its slots to the texts that wait.

A turn of it:

  1  slots of cancelled and late texts are free
  2  waiting texts go into free slots
  3  one call reads, or scores, the prompts whose turn it is
  4  one call writes a token of every text whose prompt is read

So a text that writes waits for one read at most between two tokens, however long other prompts are.
The tokens of a turn are on the host before the next, because none can be unread.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.places import tell
from melodi_plugin.server.queue import Limits, Queue
from melodi_plugin.server.slots import Observer, Slots
from melodi_plugin.server.texts import Prompt, Text
from melodi_plugin.serving.engine import Engine
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.serving.text import Decodes

_RETRY_SECONDS = 30  # after which another server may have taken the place of one that stops


class Status(NamedTuple):
  """How many slots are free, read a prompt and write; and what waits for one."""

  free: int
  reading: int
  writing: int
  queued_texts: int
  queued_tokens: int


class Scheduler:
  """Writes texts; `submit`, `cancel`, `drain`, `stop`, `status` and `idle` are for all threads."""

  def __init__(
    self,
    engine: Engine,
    tokenizer: Decodes,
    snapshots: Snapshots,
    limits: Limits | None = None,
    metrics: Observer | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Nothing is written before `start`, or `turn`.

    Args:
      engine: that nobody else calls from now on.
      tokenizer: makes text of tokens.
      snapshots: that nobody else changes from now on; a budget of 0 turns them off.
      limits: of what may wait.
      metrics: is told what happens.
      clock: tells the time in seconds.
    """
    self._engine, self._limits, self._clock = engine, limits or Limits(), clock
    self._queue = Queue(self._limits)
    self._slots = Slots(
      engine, tokenizer, snapshots, metrics or Observer(), clock, self._wait_for_row
    )
    self._changed = threading.Condition()  # guards the queue and the flags
    self._draining = self._stopping = False
    self._thread: threading.Thread | None = None

  # -- For all threads -----------------------------------------------------------------------------

  def start(self) -> None:
    """Begins to write, in a thread of its own."""
    self._thread = threading.Thread(target=self._run, name="melodi-scheduler", daemon=True)
    self._thread.start()

  def submit(self, texts: Sequence[Text]) -> None:
    """Takes all texts or none; what becomes of them is told to `Text.listen`.

    Raises:
      Refused: 400 for a prompt without tokens, 413 if they never fit, 429 if the queue is full,
        503 if no more is taken.
    """
    if not all(len(text.prompt.ids) for text in texts):
      raise Refused(400, "a prompt has no tokens; write at least one.", param="prompt")
    with self._changed:
      if self._draining:
        raise _stops()
      self._queue.add(texts, self._clock())
      self._changed.notify_all()

  def cancel(self, texts: Sequence[Text]) -> None:
    """Nothing is told of them any more, and their slots are free at the next turn."""
    with self._changed:
      for text in texts:
        text.cancelled = True
        self._queue.remove(text)
      self._changed.notify_all()

  def drain(self, seconds: float) -> bool:
    """Takes nothing more, writes what it has, and stops; whether that was done in time.

    What is left after so many seconds is refused with 503.
    """
    with self._changed:
      self._draining = True
      done = self._changed.wait_for(self.idle, seconds)
    self.stop()
    return done

  def stop(self) -> None:
    """Stops after the turn that runs; what is left is refused with 503."""
    with self._changed:
      self._draining = self._stopping = True
      self._changed.notify_all()
    if self._thread is not None:
      self._thread.join()
    with self._changed:
      waiting = self._queue.remove_all()
    for place in self._slots.taken:
      self._slots.refuse(place, _stops())
    for text in waiting:
      tell(text, _stops())

  def status(self) -> Status:
    """How many there are, now."""
    with self._changed:
      places = self._slots.taken
      writing = sum(place.writes for place in places)
      free = len(self._slots.places) - len(places)
      reading = len(places) - writing
      return Status(free, reading, writing, len(self._queue), self._queue.tokens)

  def idle(self) -> bool:
    """Whether there is nothing to do."""
    with self._changed:
      return not self._slots.taken and not len(self._queue)

  # -- For the one thread --------------------------------------------------------------------------

  def _run(self) -> None:
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._stopping or not self.idle())
        if self._stopping:
          return
      self.turn()

  def turn(self) -> None:
    """See the head of this file.  An error of the engine ends what is in slots, and no more."""
    try:
      self._end_late()
      self._admit()
      self._slots.read()
      self._slots.write()
    except Exception:
      logging.getLogger(__name__).exception("The engine failed: it starts anew.")
      self._start_anew()
    with self._changed:
      if self.idle():
        self._changed.notify_all()

  def _end_late(self) -> None:
    now, seconds = self._clock(), self._limits.request_seconds
    for place in self._slots.taken:
      if place.text.cancelled:
        self._slots.leave(place)
      elif now - place.since > seconds:
        message = f"the text was not finished within {seconds:g} seconds; ask for a shorter one."
        self._slots.refuse(place, Refused(503, message, code="timeout"))
    with self._changed:
      late = self._queue.remove_late(now, self._slots.read_now)
    for text in late:
      message = "the text has waited too long for a slot; ask again later."
      tell(text, Refused(503, message, code="timeout", retry_after=_RETRY_SECONDS))

  def _admit(self) -> None:
    while None in self._slots.places:
      with self._changed:
        found = self._queue.take(self._slots.read_now)
        if found is None:
          return
        place = self._slots.take(*found)
      if place.text.cancelled:
        self._slots.leave(place)
      else:
        self._slots.begin(place)

  def _start_anew(self) -> None:
    for place in self._slots.taken:
      message = "the model failed while it wrote the text; ask again."
      self._slots.refuse(place, Refused(500, message, code="engine_error"))
    try:
      self._engine.reset()
    except Exception:  # then the next call fails as well, and is told
      logging.getLogger(__name__).exception("The engine could not start anew.")

  def _wait_for_row(self, prompt: Prompt) -> bool:
    with self._changed:
      return self._queue.wait_for_row(prompt)


def _stops() -> Refused:
  return Refused(503, "the server stops; ask again later.", retry_after=_RETRY_SECONDS)
