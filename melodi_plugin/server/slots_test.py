"""What turns of a scheduler do to the texts in slots; no threads."""

import itertools

import numpy as np
import pytest

from melodi_plugin.server.queue import Limits
from melodi_plugin.server.scheduler import Scheduler, Status
from melodi_plugin.server.slots import Observer
from melodi_plugin.server.texts import Finished, Prompt, PromptRead, Text
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.testing.slots import ByteTokenizer, FakeEngine
from melodi_plugin.testing.texts import alone, assert_alone, heard, row_after

READ = 8  # tokens of one call


class Clock:
  now = 0.0

  def __call__(self) -> float:
    return self.now


class Desk:
  """A scheduler whose turns are taken by hand."""

  def __init__(self, slots: int = 4, snapshots: int = 0, metrics: Observer | None = None, **limits):
    self.engine, self.snapshots = FakeEngine(slots, read_tokens=READ), Snapshots(snapshots)
    self.clock = Clock()
    self.scheduler = Scheduler(
      self.engine, ByteTokenizer(), self.snapshots, Limits(**limits), metrics, self.clock
    )

  def submit(self, *texts: Text) -> None:
    self.scheduler.submit(texts)

  def turn(self, count: int = 1) -> None:
    for _ in range(count):
      self.scheduler.turn()

  def finish(self) -> None:
    for _ in range(10_000):
      if self.scheduler.idle():
        break
      self.turn()
    assert self.scheduler.status() == Status(len(self.engine.slots), 0, 0, 0, 0)

  def calls(self, name: str) -> list[tuple[int, ...]]:
    return [slots for called, slots in self.engine.calls if called == name]


# -- Reading and writing ---------------------------------------------------------------------------


def test_texts_of_all_lengths_are_written_as_if_each_were_alone():
  desk = Desk(slots=3)
  texts = [heard("x" * (1 + 7 * n), 1 + n, seed=n % 3, keep=n % 2 > 0) for n in range(12)]
  desk.submit(*texts)
  desk.finish()
  for text in texts:
    assert_alone(text)


def test_stop_strings_and_the_end_of_text_end_a_text():
  desk = Desk()
  whole = bytes(alone(heard("prompt", 20))[0]).decode()
  text = heard("prompt", 20, stop=(whole[7:9],))
  ending = next(own for n in range(999) if 1 < len(alone(own := heard(f"{n}", 50))[0]) < 50)
  desk.submit(text, ending)
  desk.finish()
  assert_alone(text)
  assert_alone(ending)
  assert "".join(event.text for event in text.written) == whole[:7]
  assert text.written[-1].finish == ending.written[-1].finish == "stop"


def test_prompt_that_is_only_read_is_kept_without_its_last_token():
  desk = Desk()
  texts = [heard(prompt, 0, keep=True) for prompt in ("p", "a long prompt, of three calls")]
  desk.submit(*texts, scored := heard("a long prompt", 0, scored=True))
  desk.finish()
  for text in (*texts, scored):
    assert_alone(text)
  assert [type(event) for event in texts[1].events] == [PromptRead, Finished]
  assert sum(map(len, desk.calls("generate"))) == 3  # that the states are finite


@pytest.mark.parametrize("scored", [False, True])
def test_a_prompt_that_is_only_read_is_kept_only_if_its_state_is_finite(scored):
  desk = Desk(snapshots=10**6)
  desk.engine.broken = {ord("y")}
  desk.submit(text := heard("a prompt, sadly", 0, keep=True, scored=scored), good := heard("b", 0))
  desk.finish()
  assert text.status == 500 and text.end.code == "model_error"
  assert len(desk.snapshots) == 0
  assert isinstance(good.end, Finished)


def test_text_goes_on_from_what_was_read_before():
  desk, start = Desk(), list(b"before")
  prompt = Prompt(np.array(list(b"after it"), np.int32), row_after(start, desk.engine), "id")
  desk.submit(text := heard(prompt, keep=True), scored := heard(prompt, scored=True))
  desk.finish()
  assert_alone(text, start)
  assert_alone(scored, start)


def test_scored_prompts_are_read_by_calls_of_their_own():
  desk = Desk()
  texts = [heard(f"{n}" * 20, 2, scored=n % 2 > 0) for n in range(4)] + [heard("q", scored=True)]
  desk.submit(*texts)
  desk.finish()
  for text in texts:
    assert_alone(text)
  assert desk.calls("read") == [(0, 2)] * 3 and desk.calls("score") == [(1, 3)] * 3


def test_a_million_tokens_stop_nobody_for_more_than_one_read():
  desk = Desk(slots=2)
  desk.engine.programs.read_tokens = 4096
  long, texts = heard([7] * 1_000_000, 1), [heard(f"{n}", 20) for n in range(10)]
  desk.submit(long)
  desk.turn()
  desk.submit(*texts)
  desk.finish()
  names = [name for name, _ in desk.engine.calls]
  assert names.count("read") == 245
  last = max(place for place, call in enumerate(desk.engine.calls) if call == ("generate", (1,)))
  assert last > 150 and ("read", "read") not in itertools.pairwise(names[1:last])
  for text in texts:
    assert_alone(text)
  assert len(long.tokens) == 1


def test_long_prompts_take_turns():
  desk = Desk(slots=3)
  desk.engine.programs.read_rows = (1, 2)
  desk.submit(*[heard("x" * 41) for _ in range(3)])
  desk.finish()
  assert desk.calls("read") == [(0, 1), (2, 0), (1, 2), (0, 1), (2, 0), (1, 2), (0, 1), (2,)]


# -- Siblings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 3])
def test_choices_read_their_prompt_once_and_stand_in_nobodys_way(slots):
  desk, prompt = Desk(slots), Prompt(np.array(list(b"a prompt of two calls"), np.int32))
  texts = [heard(prompt, 6, seed=seed) for seed in range(1, 6)]
  desk.submit(*texts, other := heard("other", 2))
  desk.finish()
  for text in (*texts, other):
    assert_alone(text)
  tokens = sum(len(slots) for slots in desk.calls("read"))
  assert tokens == 3 + 1  # calls of one prompt, and that of the other
  assert [text.read.cached_tokens for text in texts] == [0] + [20] * 4
  if slots == 3:
    assert other.events and desk.calls("read")[0] == (0, 1)


def test_the_next_sibling_reads_if_the_first_is_gone():
  desk, prompt = Desk(), Prompt(np.array(list(b"a prompt of two calls"), np.int32))
  texts = [heard(prompt, 6, seed=seed) for seed in range(1, 4)]
  desk.submit(*texts)
  desk.turn()
  desk.scheduler.cancel(texts[:1])
  desk.finish()
  assert texts[0].events == []
  for text in texts[1:]:
    assert_alone(text)
  assert len(desk.calls("read")) == 1 + 3


@pytest.mark.parametrize("slots, calls", [(4, [(0, 1)] * 3), (1, [(0,)] * 6)])
def test_scored_text_reads_for_its_siblings_and_reads_all_itself(slots, calls):
  desk, prompt = Desk(slots), Prompt(np.array(list(b"a prompt of two calls"), np.int32))
  texts = [heard(prompt, 6, seed=seed + 1, scored=seed in (0, 2)) for seed in range(4)]
  desk.submit(*texts)
  desk.finish()
  for text in texts:
    assert_alone(text)
  assert not desk.calls("read") and desk.calls("score") == calls


# -- Snapshots -------------------------------------------------------------------------------------


def test_what_was_read_before_is_not_read_again():
  desk = Desk(snapshots=100_000)
  desk.submit(first := heard("system: be kind. hello", 6))
  desk.finish()
  said = bytes(first.tokens).decode()
  more = [
    heard("system: be kind. hello", 6),  # the whole prompt but its last token
    heard(f"system: be kind. hello{said} and", 6),  # the text, too
    heard("system: be kind. hello", 6, owner="b"),
    heard("system: be kind. hello", 6, scored=True),
  ]
  desk.submit(*more)
  desk.finish()
  for text in (first, *more):
    assert_alone(text)
  assert [text.read.cached_tokens for text in (first, *more)] == [0, 21, 27, 0, 0]
  assert desk.snapshots.hits == 2


def test_what_follows_one_start_is_not_found_behind_another():
  desk, ids = Desk(snapshots=100_000), np.array(list(b"and so on"), np.int32)
  starts = {"one": list(b"once"), "two": list(b"twice")}
  texts = {
    name: [heard(Prompt(ids, row_after(own, desk.engine), name)) for _ in range(2)]
    for name, own in starts.items()
  }
  nameless = [heard(Prompt(ids, row_after(starts["one"], desk.engine))) for _ in range(2)]
  for place in range(2):
    desk.submit(*[own[place] for own in texts.values()], nameless[place])
    desk.finish()
  for name, own in starts.items():
    assert [text.read.cached_tokens for text in texts[name]] == [0, 8]
    for text in texts[name]:
      assert_alone(text, own)
  for text in nameless:
    assert_alone(text, starts["one"])
    assert text.read.cached_tokens == 0


def test_without_a_budget_no_state_leaves_the_device(monkeypatch):
  desk, extracted = Desk(snapshots=999), []
  monkeypatch.setattr(desk.engine, "extract", extracted.append)
  desk.submit(heard("a prompt", 3), heard("another", 3))
  desk.finish()
  assert not extracted and not len(desk.snapshots)


# -- Cancelled, late, and broken -------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("sets_only", [False, True])
def test_cancelled_text_is_told_nothing_more_and_its_slot_is_free(turns, sets_only):
  """Queued at first, then while its prompt of four calls is read, then while it is written."""
  desk = Desk(slots=1, snapshots=100_000)
  text, other = heard("x" * 30, 20, keep=True), heard("other", 3)
  desk.submit(text, other)
  desk.turn(turns)
  before = list(text.events)
  if sets_only:
    text.cancelled = True
  else:
    desk.scheduler.cancel([text])
  desk.turn()
  assert text.events == before
  assert desk.scheduler.status().writing == 0 or other.events
  desk.finish()
  assert text.events == before
  assert_alone(other)
  assert len(desk.snapshots) == 2 + (turns > 3)


def test_cancelled_when_its_prompt_is_read_it_is_not_written():
  desk, text = Desk(snapshots=100_000), heard("prompt", 9)
  text.listen = lambda event: desk.scheduler.cancel([text])
  desk.submit(text)
  desk.finish()
  assert not desk.calls("generate") and not len(desk.snapshots)


def test_listener_that_fails_is_told_no_more_and_hurts_nobody(caplog):
  desk, text, other = Desk(), heard("prompt", 9), heard("other", 9)
  told = []

  def fail(event):
    told.append(event)
    raise RuntimeError("the loop is closed")

  text.listen = fail
  desk.submit(text, other)
  desk.finish()
  assert len(told) == 1 and "the loop is closed" in caplog.text
  assert_alone(other)


def test_texts_that_take_too_long_are_refused():
  desk = Desk(slots=1, queue_seconds=10, request_seconds=20)
  desk.submit(long := heard("prompt", 99), waits := heard("other", 3))
  desk.turn()
  desk.clock.now = 10.5
  desk.turn()
  assert waits.status == 503 and "waited too long" in waits.end.message
  desk.submit(last := heard("last", 3))
  desk.clock.now = 20.5
  desk.turn()
  assert long.status == 503 and "not finished within 20 seconds" in long.end.message
  desk.finish()
  assert_alone(last)


def test_what_the_engine_cannot_draw_is_refused_alone():
  desk = Desk()
  texts = [heard("a", logit_bias={259: 1.0}), heard("b", stop=("",)), other := heard("c")]
  desk.submit(*texts)
  desk.finish()
  assert [text.status for text in texts] == [400, 400, 0]
  assert "logit_bias names token 259" in texts[0].end.message
  assert_alone(other)


def test_text_whose_logits_are_not_finite_ends_alone_and_leaves_no_state():
  desk, word = Desk(snapshots=100_000), heard("prompt", 9)
  tokens, _ = alone(word)
  desk.engine.broken = {tokens[3], ord("!")}
  bad = heard("prompt!", 9, keep=True)  # broken at its first token
  desk.submit(word, bad, other := heard("yes", 3, owner="b"))
  desk.finish()
  assert word.status == bad.status == 500 and word.end.code == "model_error"
  assert word.tokens == alone(word, broken=desk.engine.broken)[0] and not bad.tokens
  assert len(desk.snapshots) == 3  # of the prompt of the word, and two of the other
  assert_alone(other)


@pytest.mark.parametrize("turns", range(7))
def test_failure_of_the_engine_ends_what_is_in_slots_and_no_more(turns, caplog):
  desk = Desk(slots=2, snapshots=100_000)
  texts = [heard("x" * 30, 9), heard("a shorter one", 9), *(heard(f"{n}", 9) for n in range(3))]
  desk.submit(*texts)
  desk.turn(turns)
  desk.engine.fails = RuntimeError("the device is gone")
  desk.turn()
  assert [text.status for text in texts[:2]] == [500, 500]
  assert texts[0].end.code == "engine_error" and "the device is gone" in caplog.text
  desk.finish()
  for text in texts[2:]:
    assert_alone(text)
  desk.submit(again := heard("x" * 30, 9))
  desk.finish()
  assert_alone(again)


# -- What is measured ------------------------------------------------------------------------------


class Ledger(Observer):
  def __init__(self):
    self.counts = dict.fromkeys(("prompt", "cached", "generated", "closed", "first", "between"), 0)
    self.names: set[str] = set()

  def tokens(self, kind, count):
    self.counts[kind] += count

  def call(self, name, seconds):
    self.names.add(name)

  def first_token(self, seconds):
    self.counts["first"] += 1

  def between_tokens(self, seconds):
    self.counts["between"] += 1

  def windows_closed(self, count):
    self.counts["closed"] += count


def test_metrics_are_told_of_every_token_and_window():
  ledger = Ledger()
  desk = Desk(metrics=ledger, snapshots=100_000)
  for _ in range(2):
    desk.submit(text := heard("a prompt of two calls", 4))
    desk.finish()
  assert len(text.tokens) == 4
  read = [20 + 4, 4]  # the pending token and all that is written but the last
  closed = (read[0] - 1) // 4 + (sum(read) - 4 - 1) // 4 - (20 - 1) // 4
  assert ledger.counts == {
    "prompt": 42, "cached": 20, "generated": 8, "closed": closed, "first": 2, "between": 6
  }  # fmt: skip
  assert ledger.names == {"read", "step", "insert", "extract"}
