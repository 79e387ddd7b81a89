"""One text in a slot: how far it is, and what is told of it."""

import dataclasses
import logging

import numpy as np

from melodi_plugin.server.texts import Event, Prompt, PromptScores, Text
from melodi_plugin.serving.engine import Row
from melodi_plugin.serving.programs import Scores
from melodi_plugin.serving.writing import Writer


@dataclasses.dataclass(eq=False)
class Place:
  """A text in a slot of an engine.

  Attributes:
    since: when it was submitted, in seconds.
    slot: where.
    writer: makes text of its tokens.
    read: tokens of the prompt that the slot holds.
    cached: those of them that it was given, and did not read.
    writes: whether all of the prompt is read.
    scores: of the prompt so far, piece by piece.
    written: its tokens.
    last: when the newest of them was drawn.
    prompt_row: the state after the prompt, if it is to be kept, until a finite token came of it.
  """

  text: Text
  since: float
  slot: int
  writer: Writer = dataclasses.field(init=False)
  read: int = 0
  cached: int = 0
  writes: bool = False
  scores: list[PromptScores] = dataclasses.field(default_factory=list)
  written: list[int] = dataclasses.field(default_factory=list)
  last: float = 0.0
  prompt_row: Row | None = None

  @property
  def prompt(self) -> Prompt:
    """What comes before the text."""
    return self.text.prompt

  @property
  def only_read(self) -> bool:
    """Whether nothing is written."""
    return self.text.ends.max_tokens == 0

  @property
  def to_read(self) -> np.ndarray:
    """What the slot reads of the prompt: all but what is pending."""
    return self.prompt.ids[:-1]

  @property
  def left(self) -> int:
    """How much of it was not read yet."""
    return len(self.to_read) - self.read

  @property
  def pending(self) -> int:
    """The last token, which nothing has read."""
    return self.written[-1] if self.written else int(self.prompt.ids[-1])

  @property
  def all_read(self) -> np.ndarray:
    """All that the slot has read behind the prompt's start, once the prompt is read."""
    return np.append(self.prompt.ids, np.array(self.written, np.int32))[:-1]

  @property
  def owner(self) -> str:
    """Who may find its states: they depend on what was read before the prompt, too."""
    return f"{self.text.owner}\0{self.prompt.start_id}"

  def add_scores(self, scores: Scores, row: int, count: int) -> None:
    """What the model said of the next tokens of the prompt, in a row of a call."""
    leaves = (scores.logprobs, scores.top_ids, scores.top_logprobs)
    self.scores.append(PromptScores(*(np.array(leaf[row, :count]) for leaf in leaves)))

  def all_scores(self) -> PromptScores | None:
    """Of all of the prompt, if they were asked for."""
    if not self.text.scored:
      return None
    if not self.scores:  # a prompt of one token, of which nothing is said
      logprobs, top = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
      return PromptScores(logprobs, top.astype(np.int32), top)
    return PromptScores(*map(np.concatenate, zip(*self.scores, strict=True)))

  def tell(self, event: Event) -> None:
    """See `tell`."""
    tell(self.text, event)


def tell(text: Text, event: Event) -> None:
  """Tells whoever listens, unless the text is cancelled; an error of theirs cancels it."""
  if text.cancelled:
    return
  try:
    text.listen(event)
  except Exception:
    logging.getLogger(__name__).exception("A listener failed, so its text is cancelled.")
    text.cancelled = True
