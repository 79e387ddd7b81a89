"""Texts for a scheduler in tests: what was heard of each, what should have been; turns by hand."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.queue import Limits
from melodi_plugin.server.scheduler import Scheduler, Status
from melodi_plugin.server.slots import Observer
from melodi_plugin.server.texts import Event, Finished, Prompt, PromptRead, Text
from melodi_plugin.serving.engine import NO_PREFIX, Row, extend_prefix
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.serving.writing import Ends, Written
from melodi_plugin.testing.slots import ByteTokenizer, FakeEngine, answer, logprob_of, next_token

EOS = 258


@dataclasses.dataclass(eq=False)
class Heard(Text):
  """A text that keeps what it was told."""

  events: list[Event] = dataclasses.field(default_factory=list)

  @property
  def read(self) -> PromptRead:
    """What was told when its prompt was read."""
    return next(event for event in self.events if isinstance(event, PromptRead))

  @property
  def written(self) -> list[Written]:
    """What was told of its tokens."""
    return [event for event in self.events if isinstance(event, Written)]

  @property
  def tokens(self) -> list[int]:
    """What was written."""
    return [event.drawn.token for event in self.written]

  @property
  def end(self) -> Finished | Refused | None:
    """The last event, if it is the end."""
    last = self.events[-1] if self.events else None
    return last if isinstance(last, Finished | Refused) else None

  @property
  def status(self) -> int:
    """That it was refused with; 0 if it was not."""
    return self.end.status if isinstance(self.end, Refused) else 0

  def assert_in_order(self) -> None:
    """The events come as `Event` says."""
    names = [type(event).__name__ for event in self.events]
    wanted = ["PromptRead", *["Written"] * len(self.tokens), "Finished"]
    assert names == wanted or names in [
      [*wanted[:n], *end] for n in range(len(wanted)) for end in ([], ["Refused"])
    ]
    finishes = [event.finish for event in self.written]
    assert not any(finishes[:-1]) and (not isinstance(self.end, Finished) or all(finishes[-1:]))


def heard(
  prompt: Prompt | str | Sequence[int],
  max_tokens: int = 5,
  *,
  seed: int = 0,
  stop: tuple[str, ...] = (),
  owner: str = "a",
  scored: bool = False,
  keep: bool = False,
  logit_bias: dict[int, float] | None = None,
) -> Heard:
  """A text that is greedy if `seed` is 0, and keeps what it is told."""
  if not isinstance(prompt, Prompt):
    ids = prompt.encode() if isinstance(prompt, str) else prompt
    prompt = Prompt(np.array(list(ids), np.int32))
  settings = SamplingSettings(temperature=float(seed > 0), seed=seed, logit_bias=logit_bias or {})
  events: list[Event] = []
  ends = Ends(max_tokens, stop, (EOS,))
  return Heard(prompt, settings, ends, owner, events.append, scored, keep, events=events)


def alone(
  text: Text, before: Sequence[int] = (), broken: Collection[int] = ()
) -> tuple[list[int], bool]:
  """The tokens of a text that nobody disturbs, and whether it comes to its end.

  `before` is what was read at the prompt's start.
  """
  ids = [*before, *map(int, text.prompt.ids)]
  seed = text.settings.seed if text.settings.temperature else 0
  tokens = answer(ids, text.ends.max_tokens, seed, end=EOS) if text.ends.max_tokens else []
  for count in range(1, len(tokens) + 1):
    if any(stop in ByteTokenizer().decode(tokens[:count]) for stop in text.ends.stop):
      tokens = tokens[:count]
      break
  reads = [ids[-1], *tokens[:-1]]  # the first is read although nothing may be written
  end = next((n for n, token in enumerate(reads) if token in broken), None)
  return tokens[:end], end is None


def assert_alone(text: Heard, before: Sequence[int] = ()) -> None:
  """A text that has come to its end says what it would have said alone."""
  text.assert_in_order()
  tokens, _ = alone(text, before)
  assert isinstance(text.end, Finished)
  assert text.tokens == tokens
  ids = [*before, *map(int, text.prompt.ids), *tokens]
  assert text.end.pending == (ids[-1],)
  assert (text.end.row is not None) == text.keep
  if text.end.row is not None:
    assert text.end.row.prefix == extend_prefix(NO_PREFIX, ids[:-1])
  assert (text.read.scores is not None) == text.scored
  if text.scored:
    assert_scored(text, before)


def assert_scored(text: Heard, before: Sequence[int] = ()) -> None:
  """Its scores are those of its prompt."""
  ids, scores = list(map(int, text.prompt.ids)), text.read.scores
  assert scores is not None and text.read.cached_tokens == 0
  best = [
    next_token(extend_prefix(NO_PREFIX, [*before, *ids[:place]]), 0, 259)
    for place in range(1, len(ids))
  ]
  wanted = [logprob_of(*pair) for pair in zip(best, ids[1:], strict=True)]
  np.testing.assert_array_equal(scores.logprobs, wanted)
  assert len(scores.top_logprobs) == len(scores.top_ids) == len(best)
  assert [int(top[0]) for top in scores.top_ids] == best


def row_after(ids: Sequence[int], engine: FakeEngine) -> Row:
  """The state of a slot that has read these tokens."""
  own = FakeEngine(1, engine.window, max(1, len(ids)))
  own.read({0: np.array(ids, np.int32)})
  return own.extract(0)


class Clock:
  """The time of a scheduler; it stands still unless a test sets `now`."""

  now = 0.0

  def __call__(self) -> float:
    """Seconds."""
    return self.now


class Desk:
  """A scheduler whose turns are taken by hand; a call reads up to 8 tokens."""

  def __init__(self, slots: int = 4, snapshots: int = 0, metrics: Observer | None = None, **limits):
    self.engine, self.snapshots = FakeEngine(slots, read_tokens=8), Snapshots(snapshots)
    self.clock = Clock()
    self.scheduler = Scheduler(
      self.engine, ByteTokenizer(), self.snapshots, Limits(**limits), metrics, self.clock
    )

  def submit(self, *texts: Text) -> None:
    """Hands texts to the scheduler: it takes all or none."""
    self.scheduler.submit(texts)

  def turn(self, count: int = 1) -> None:
    """Takes turns."""
    for _ in range(count):
      self.scheduler.turn()

  def finish(self) -> None:
    """Takes turns until nothing is left to do, when all slots must be free."""
    for _ in range(10_000):
      if self.scheduler.idle():
        break
      self.turn()
    assert self.scheduler.status() == Status(len(self.engine.slots), 0, 0, 0, 0)

  def calls(self, name: str) -> list[tuple[int, ...]]:
    """The slots of every call of that name."""
    return [slots for called, slots in self.engine.calls if called == name]
