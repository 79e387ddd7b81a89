"""Any documents, rows and processes, and anything that happens to them: against a small model."""

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
  RuleBasedStateMachine,
  initialize,
  precondition,
  rule,
  run_state_machine_as_test,
)

from melodi_plugin.data.documents import BrokenDocument, Document
from melodi_plugin.data.order import DocumentOrder
from melodi_plugin.data.place import StateMismatch, merge_states
from melodi_plugin.data.read_ahead import Workers
from melodi_plugin.data.rows import StickyRows, StickyRowsIterator

# Checks of types draw from `random` in the threads that read, while an example is made up in ours.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

LONGEST = 30
LENGTHS = st.integers(0, 3) | st.integers(
  0, LONGEST
)  # of documents; with fewer than 2 it is broken
NOTHING = (0, 0, 0, 0)  # a slot of padding


class Texts:
  """Documents as lists of tokens; None is one that cannot be read."""

  def __init__(self, tokens: list[list[int] | None]):
    self.tokens = list(tokens)

  def __len__(self) -> int:
    return len(self.tokens)

  def __getitem__(self, index: Any) -> Document:
    tokens = self.tokens[index]
    if tokens is None:
      raise BrokenDocument(f"document {index}", "is broken; mend it")
    return Document(f"d{index}", " ".join(map(str, tokens)))


def tokenize(text: str) -> list[int]:
  return [int(token) for token in text.split()]


class AllBroken(Exception):  # noqa: N818, it is the documents that are broken
  """A row has met as many broken documents, one after another, as there are."""


@dataclasses.dataclass
class Place:
  """Where the model is in a row: `offset` slots of its k-th document, and which it read last."""

  k: int = 0
  offset: int = 0
  last: int | None = None


def read(
  texts: Texts, order: DocumentOrder, row: int, at: Place, *, window: int, count: int, skip: bool
) -> list[tuple]:
  """The model: the next `count` slots of a row, (document + 1, token, position, target) each."""
  slots: list[tuple] = []
  broken = 0
  while len(slots) < count:
    at.last = order.document(row, at.k)
    if at.last is None:
      break
    tokens = texts.tokens[at.last]
    if tokens is None or len(tokens) < 2:
      at.k, broken = at.k + 1, broken + 1
      if not skip:
        raise BrokenDocument(f"document {at.last}", "")
      if broken == len(texts):
        raise AllBroken
      continue
    whole = [*zip(itertools.repeat(at.last + 1), tokens, itertools.count(), [*tokens[1:], 0])]
    whole += [NOTHING] * (-len(tokens) % window)
    taken = whole[at.offset : at.offset + count - len(slots)]
    slots, broken = slots + taken, 0
    at.offset = (at.offset + len(taken)) % len(whole)
    at.k += not at.offset
  return slots + [NOTHING] * (count - len(slots))


def slots_of(batch: dict[str, np.ndarray]) -> list[list[tuple]]:
  """What a batch holds, row by row, as the model says it."""
  numbers, positions = batch["inputs_segmentation"], batch["inputs_position"]
  begins = (positions == 0) & (numbers > 0)
  goes_on = (numbers[:, :1] > 0) & (positions[:, :1] > 0)
  np.testing.assert_array_equal(numbers, (begins.cumsum(1) + goes_on) * (numbers > 0))
  np.testing.assert_array_equal(positions, batch["targets_position"])
  np.testing.assert_array_equal(batch["targets_segmentation"], numbers * (batch["targets"] > 0))
  arrays = batch["document_index"] + 1, batch["inputs"], positions, batch["targets"]
  return [[*zip(*row, strict=True)] for row in zip(*(a.tolist() for a in arrays), strict=True)]


@dataclasses.dataclass
class Saved:
  """The places of all processes, those of the model, and what they were in."""

  places: list[str]
  model: list[Place]
  texts: Texts
  order: DocumentOrder


class AnyRows(RuleBasedStateMachine):
  """Processes read, save and are resumed as others, while documents change between two runs."""

  processes = 0  # that tokenize

  @initialize(data=st.data())
  def begin(self, data: st.DataObject) -> None:
    draw = data.draw
    self.versions = itertools.count()
    lengths = draw(st.lists(LENGTHS, min_size=1, max_size=8), "lengths")
    self.texts: list[list[int] | None] = [self._text(length) for length in lengths]
    self.window = draw(st.integers(1, 5), "window")
    self.how: dict[str, Any] = {
      "rows": draw(st.integers(1, 5), "rows"),
      "shuffle": draw(st.booleans(), "shuffle"),
      "seed": draw(st.integers(0, 3), "seed"),
      "epochs": draw(st.sampled_from([None, 1, 2, 3]), "epochs"),
    }
    self.knows_sizes = draw(st.booleans(), "sizes are known")
    self.skips = draw(st.booleans(), "skips broken documents")
    self.saved: list[Saved] = []
    self.hosts: list[StickyRowsIterator] = []
    self._start(draw)
    self.save()

  def teardown(self) -> None:
    for host in getattr(self, "hosts", []):
      host.close()

  def _text(self, length: int) -> list[int]:
    """No token stands in two documents, or in two versions of one."""
    first = 1 + LONGEST * next(self.versions)
    return list(range(first, first + length))

  def _start(self, draw: Any) -> None:
    """New processes with rows of their own; they read the documents as these are now."""
    self.teardown()
    self.running, rows = Texts(self.texts), self.how["rows"]
    lengths = np.array([len(tokens or ()) for tokens in self.texts])
    how = self.how | {"sizes": lengths if self.knows_sizes else None}
    self.order = DocumentOrder(documents=len(lengths), **how)
    cuts = draw(st.sets(st.integers(1, rows - 1)), "cuts") if rows > 1 else ()
    parts = np.split(np.array(draw(st.permutations(range(rows)), "order of rows")), sorted(cuts))
    self.segment = self.window * draw(st.integers(1, 4), "windows in a segment")
    self.hosts = [
      iter(
        StickyRows(
          self.running,
          tokenize,
          segment_length=self.segment,
          window_length=self.window,
          local_rows=part.tolist(),
          workers=Workers(self.processes, draw(st.integers(1, 3), "threads")),
          on_broken=(lambda broken: None) if self.skips else None,
          with_document_index=True,
          **how,
        )
      )
      for part in parts
    ]
    self.model = [Place() for _ in range(rows)]
    self.failed = False

  @precondition(lambda self: not self.failed)
  @rule()
  def read(self) -> None:
    for host in self.hosts:
      try:
        expected = [self._model_of(row) for row in host.dataset.local_rows]
      except (BrokenDocument, AllBroken) as error:
        self.failed = True
        self._must_fail(host, error)
        continue
      try:
        batch = next(host)
      except StopIteration:
        assert not np.any(expected)
      else:
        assert slots_of(batch) == expected

  def _model_of(self, row: int) -> list[tuple]:
    lengths = {"window": self.window, "count": self.segment, "skip": self.skips}
    return read(self.running, self.order, row, self.model[row], **lengths)

  def _must_fail(self, host: StickyRowsIterator, error: Exception) -> None:
    """In the same way at every try, and nothing that was read before is lost."""
    before = json.dumps(host.get_state())
    kind = ValueError if isinstance(error, AllBroken) else BrokenDocument
    for _ in range(2):
      with pytest.raises(kind):
        next(host)
      assert json.dumps(host.get_state()) == before

  @precondition(lambda self: not self.failed)
  @rule()
  def save(self) -> None:
    places = [json.dumps(host.get_state()) for host in self.hosts]
    model = [dataclasses.replace(place) for place in self.model]
    self.saved.append(Saved(places, model, self.running, self.order))

  @rule(data=st.data())
  def change(self, data: st.DataObject) -> None:
    """What a new run will find; the one that is running has opened its documents."""
    draw, texts = data.draw, self.texts
    index = draw(st.integers(0, len(texts) - 1), "document")
    tokens = texts[index]
    kinds = ("text", "end", "length", "broken", "shift", "swap", "more")
    kind = draw(st.sampled_from(kinds), "kind")
    if kind == "text":
      texts[index] = self._text(len(tokens or ()))
    elif kind == "end" and tokens:
      kept = draw(st.integers(0, len(tokens)), "kept")
      texts[index] = tokens[:kept] + self._text(len(tokens) - kept)
    elif kind == "length":
      texts[index] = self._text(draw(LENGTHS, "tokens"))
    elif kind == "broken":
      texts[index] = None
    elif kind == "shift":
      texts[:] = [*texts[1:], self._text(len(texts[0] or ()))]
    elif kind == "swap":
      other = draw(st.integers(0, len(texts) - 1), "other document")
      texts[index], texts[other] = texts[other], tokens
    elif kind == "more":
      texts.append(self._text(draw(LENGTHS, "tokens")))

  @rule(data=st.data())
  def resume(self, data: st.DataObject) -> None:
    saved = data.draw(st.sampled_from(self.saved), "saved")
    self._start(data.draw)
    place = merge_states(map(json.loads, saved.places))
    for host in self.hosts:
      if self._fits(saved, host.dataset.local_rows):
        host.set_state(place)
      else:
        self.failed = True
        with pytest.raises((StateMismatch, BrokenDocument)):
          host.set_state(place)
    self.model = [dataclasses.replace(place) for place in saved.model]

  def _fits(self, saved: Saved, rows: tuple[int, ...]) -> bool:
    """Whether rows can go on in these documents: what they remember must be what stands there."""
    sizes = [None if o.sizes is None else o.sizes.tolist() for o in (saved.order, self.order)]
    if len(saved.texts) != len(self.running) or sizes[0] != sizes[1]:
      return False
    for place in (saved.model[row] for row in rows):
      if place.last is None:
        continue
      before, now = (texts.tokens[place.last] for texts in (saved.texts, self.running))
      assert before is not None
      seen = min(place.offset or len(before), len(before))
      if now is None or len(now) != len(before) or now[:seen] != before[:seen]:
        return False
    return True


def check(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
  run_state_machine_as_test(
    machine,
    settings=settings(
      max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True
    ),
  )


@pytest.mark.parametrize("examples", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_rows_are_what_the_model_says_or_a_sentence(examples):
  check(AnyRows, examples, 20)


class WithWorkers(AnyRows):
  """The same with a process that tokenizes, for every process that reads."""

  processes = 1


@pytest.mark.slow
def test_rows_are_the_same_with_processes_that_tokenize():
  check(WithWorkers, 10, 10)
