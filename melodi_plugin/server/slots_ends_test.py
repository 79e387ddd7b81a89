"""Texts in slots that end too early: cancelled, late, or broken; and what is measured of all."""

import pytest

from melodi_plugin.server.slots import Observer
from melodi_plugin.testing.texts import Desk, alone, assert_alone, heard

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
