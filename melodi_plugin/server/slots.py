"""The slots of an engine and the texts in them: what a turn reads and writes.

What becomes of a text does not depend on the others: every slot reads and draws by itself, and how
a prompt is cut into calls changes nothing.  But calls of few and of many slots are two programs,
which round differently: only what calls of one size have read is equal to the last bit.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.places import Place
from melodi_plugin.server.texts import Finished, Prompt, PromptRead, Text
from melodi_plugin.serving.engine import Drawn, Engine, Row
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.serving.text import Decodes
from melodi_plugin.serving.writing import NotFinite, Writer

_BEFORE = 32  # tokens of a prompt that the first word may hang on


class Observer:
  """Is told what happens, on the scheduler's thread; does nothing with it by itself."""

  def tokens(self, kind: str, count: int) -> None:
    """So many tokens; kind is `prompt`, `cached` (of these, not read again) or `generated`."""

  def call(self, name: str, seconds: float) -> None:
    """A call of the engine: `read`, `score`, `step`, `insert` or `extract`."""

  def waited(self, seconds: float) -> None:
    """A text has found a slot, so long after it was submitted."""

  def first_token(self, seconds: float) -> None:
    """A text has its first token, so long after it was submitted."""

  def between_tokens(self, seconds: float) -> None:
    """A text has its next token, so long after the one before."""

  def windows_closed(self, count: int) -> None:
    """So many windows went into memory."""


class Slots:
  """For one thread; errors of the engine pass through every call.

  Attributes:
    places: by slot; None where it is free.
  """

  def __init__(
    self,
    engine: Engine,
    tokenizer: Decodes,
    snapshots: Snapshots,
    metrics: Observer,
    clock: Callable[[], float],
    wait_for_row: Callable[[Prompt], bool],
  ):
    """The last argument says whether other texts wait for the row of a prompt."""
    self._engine, self._tokenizer, self._snapshots = engine, tokenizer, snapshots
    self._metrics, self._clock, self._wait_for_row = metrics, clock, wait_for_row
    self.places: list[Place | None] = [None] * engine.programs.slots
    self._reading: list[Place] = []  # the one whose turn is next comes first

  # -- Coming and going ----------------------------------------------------------------------------

  @property
  def taken(self) -> list[Place]:
    """The texts in slots."""
    return [place for place in self.places if place is not None]

  @property
  def read_now(self) -> set[Prompt]:
    """The prompts that are not read to their end."""
    return {place.prompt for place in self._reading}

  def take(self, text: Text, since: float) -> Place:
    """Gives a text a free slot, of which the engine knows nothing yet."""
    place = Place(text, since, self.places.index(None))
    self.places[place.slot] = place
    return place

  def begin(self, place: Place) -> None:
    """What is read before the prompt; a text that the engine cannot write is told so."""
    text = place.text
    self._metrics.waited(self._clock() - place.since)
    try:
      before = text.prompt.ids[-_BEFORE:].tolist()
      place.writer = Writer(self._tokenizer, text.ends, before)
      self._engine.sample_with(place.slot, text.settings)
    except ValueError as error:
      self.refuse(place, Refused(400, str(error)))
      return
    self._go_on(place)
    self._metrics.tokens("prompt", len(text.prompt.ids))
    self._metrics.tokens("cached", place.cached)
    self._reading.append(place)
    if not place.left:
      self._end_prompt(place)

  def _go_on(self, place: Place) -> None:
    """From the nearest state that there is."""
    prompt, slot = place.prompt, place.slot
    row, read = prompt.start, 0
    if prompt.row is not None and not place.text.scored:
      row, read = prompt.row, len(place.to_read)
    elif len(place.to_read) and self._keeps(place):
      row, read = self._snapshots.longest(place.to_read, place.owner) or (row, 0)
    if row is None:
      self._engine.begin(slot)
    else:
      self._call("insert", self._engine.insert, slot, row)
    place.read = place.cached = read

  def refuse(self, place: Place, refused: Refused) -> None:
    """Ends a text before its end."""
    self.leave(place)
    place.tell(refused)

  def leave(self, place: Place) -> None:
    """Frees its slot."""
    self.places[place.slot] = None
    if place in self._reading:
      self._reading.remove(place)

  # -- Reading -------------------------------------------------------------------------------------

  def read(self) -> None:
    """At most one call, for those whose turn it is."""
    if not self._reading:
      return
    programs, scored = self._engine.programs, self._reading[0].text.scored
    alike = [place for place in self._reading if place.text.scored == scored]
    places = alike[: programs.read_rows[-1]]
    pieces = {place.slot: place.to_read[place.read :][: programs.read_tokens] for place in places}
    self._count_closed(pieces)
    if scored:
      self._score(places, pieces)
    else:
      self._call("read", self._read, pieces)
    for place in places:
      self._reading.remove(place)
      self._reading.append(place)
      place.read += len(pieces[place.slot])
      if not place.left:
        self._end_prompt(place)

  def _read(self, pieces: Mapping[int, np.ndarray]) -> None:
    self._engine.read(pieces)
    self._engine.wait()  # so that no calls pile up on the device, and a text can still be cancelled

  def _score(self, places: list[Place], pieces: Mapping[int, np.ndarray]) -> None:
    targets = {
      place.slot: place.prompt.ids[place.read + 1 :][: len(pieces[place.slot])] for place in places
    }
    scores = self._call("score", self._engine.score, pieces, targets)
    for row, place in enumerate(places):
      place.add_scores(scores, row, len(pieces[place.slot]))

  def _end_prompt(self, place: Place) -> None:
    self._reading.remove(place)
    place.writes = True
    if place.text.cancelled:
      return
    prompt = place.prompt
    shared = prompt.row is None and self._wait_for_row(prompt)
    kept = self._keeps(place) and place.cached < place.read
    ends_here = place.only_read and place.text.keep
    row = self._extract(place) if shared or kept or ends_here else None
    if shared:
      prompt.row = row
    if kept or ends_here:
      place.prompt_row = row
    place.tell(PromptRead(place.cached, place.all_scores()))
    place.scores.clear()

  # -- Writing -------------------------------------------------------------------------------------

  def write(self) -> None:
    """One token of every text whose prompt is read.

    What is only read draws one as well, which nobody is told: it shows that the state is finite.
    """
    places = [place for place in self.taken if place.writes and not place.text.cancelled]
    if not places:
      return
    pending = {place.slot: place.pending for place in places}
    self._count_closed({slot: (token,) for slot, token in pending.items()})
    drawn = self._call("step", self._engine.generate, pending)
    self._metrics.tokens("generated", sum(not place.only_read for place in places))
    for place in places:
      self._add(place, drawn[place.slot])

  def _add(self, place: Place, drawn: Drawn) -> None:
    try:
      written = place.writer.add(drawn)
    except NotFinite as error:
      self.refuse(place, Refused(500, str(error), code="model_error"))
      return
    if not place.written:
      self._keep_prompt(place)
    if place.only_read:
      self._finish(place, place.prompt_row)
      return
    now = self._clock()
    if place.written:
      self._metrics.between_tokens(now - place.last)
    else:
      self._metrics.first_token(now - place.since)
      place.prompt_row = None
    place.last = now
    place.written.append(drawn.token)
    place.tell(written)
    if written.finish:
      self._end_text(place)

  def _end_text(self, place: Place) -> None:
    keeps, row = self._keeps(place), None
    if not place.text.cancelled and (keeps or place.text.keep):
      row = self._extract(place)
      if keeps:
        self._snapshots.add(place.all_read, row, row.bytes, place.owner)
    self._finish(place, row)

  def _finish(self, place: Place, row: Row | None) -> None:
    self.leave(place)
    place.tell(Finished(row if place.text.keep else None, (place.pending,)))

  # -- States --------------------------------------------------------------------------------------

  def _keeps(self, place: Place) -> bool:
    """Whether its states are found again by those who begin alike, and may begin with theirs.

    Not those of another program, which may differ in the last bits; and not what has no name.
    """
    named = place.prompt.start is None or place.prompt.start_id
    fits = self._engine.row_bytes <= self._snapshots.budget
    return bool(named) and fits and not place.text.scored

  def _keep_prompt(self, place: Place) -> None:
    row = place.prompt_row
    if row is not None and self._keeps(place) and place.cached < place.read:
      self._snapshots.add(place.to_read, row, row.bytes, place.owner)

  def _extract(self, place: Place) -> Row:
    return self._call("extract", self._engine.extract, place.slot)

  # -- What is told --------------------------------------------------------------------------------

  def _call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    start = self._clock()
    result = function(*arguments)
    self._metrics.call(name, self._clock() - start)
    return result

  def _count_closed(self, texts: Mapping[int, Any]) -> None:
    """Before a call reads texts; a full window closes when the token behind it is read."""
    window, slots = self._engine.window, self._engine.slots
    closed = sum((slots[slot].count + len(text) - 1) // window for slot, text in texts.items())
    self._metrics.windows_closed(closed)
