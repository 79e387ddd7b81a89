"""Texts from many threads, at random, and to the end of the server."""

import itertools
import threading
import time

import numpy as np
import pytest

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.queue import Limits
from melodi_plugin.server.scheduler import Scheduler, Status
from melodi_plugin.server.texts import Finished, Prompt
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.slots import ByteTokenizer, FakeEngine
from melodi_plugin.testing.texts import Heard, alone, assert_alone, heard, row_after

START = list(b"what was read before")
BROKEN = {ord("q"), ord("%")}


# -- At random -------------------------------------------------------------------------------------


class Storm:
  """Random texts and mishaps; what each text is told is checked at its end."""

  def __init__(self, slots: int):
    self.chance = np.random.default_rng(slots)
    self.engine = FakeEngine(slots)
    self.engine.broken = BROKEN
    self.now = 0.0
    limits = Limits(queue_texts=9, queue_tokens=500, queue_seconds=60, request_seconds=120)
    self.scheduler = Scheduler(
      self.engine, ByteTokenizer(), Snapshots(30_000), limits, clock=lambda: self.now
    )
    self.start = row_after(START, self.engine)
    self.open: list[Heard] = []
    self.ends: dict[str, int] = {}

  def happen(self) -> None:
    event = self.chance.random()
    if event < 0.1:
      self.submit()
    elif event < 0.13 and self.open:
      text = self.open[self.chance.integers(len(self.open))]
      self.scheduler.cancel([text])
    elif event < 0.133:
      self.engine.fails = RuntimeError("the device is gone")
    else:
      self.turn()

  def submit(self) -> None:
    prompt = self.prompt()
    group = [self.text(prompt) for _ in range(self.chance.choice([1, 1, 1, 3]))]
    try:
      self.scheduler.submit(group)
    except Refused as full:
      self.count(str(full.status), len(group))
    else:
      self.open += group

  def prompt(self) -> Prompt:
    """Many begin alike; some go on from a row."""
    begun = self.chance.random() < 0.2
    ids = [*b"you are a model of few words"][: self.chance.integers(0, 29)]
    ids += self.chance.integers(0, 256, self.chance.integers(1, 12)).tolist()
    own = np.array(ids, np.int32)
    return Prompt(own, self.start, str(self.chance.choice(["", "id"]))) if begun else Prompt(own)

  def text(self, prompt: Prompt) -> Heard:
    chance = self.chance
    text = heard(
      prompt,
      int(chance.integers(0, 12)),
      seed=int(chance.integers(0, 3)),
      stop=(("e",), (), (), ("",))[chance.choice(4, p=[0.3, 0.3, 0.38, 0.02])],
      owner=str(chance.integers(3)),
      scored=chance.random() < 0.1,
      keep=chance.random() < 0.2,
      logit_bias={300: 1.0} if chance.random() < 0.02 else None,
    )
    if chance.random() < 0.02:
      listen, last = text.listen, int(chance.integers(5))

      def fail(event):
        listen(event)
        if len(text.events) > last:
          raise RuntimeError("nobody listens")

      text.listen = fail
    return text

  def turn(self) -> None:
    before = len(self.engine.calls)
    self.scheduler.turn()
    self.now += self.chance.exponential()
    names = [name for name, _ in self.engine.calls[before:]]
    assert names in [
      [],
      ["read"],
      ["score"],
      ["generate"],
      ["read", "generate"],
      ["score", "generate"],
    ]
    for text in [text for text in self.open if text.end or text.cancelled]:
      self.open.remove(text)
      self.check(text)

  def check(self, text: Heard) -> None:
    text.assert_in_order()
    if text.cancelled:
      return self.count("cancelled")
    before = START if text.prompt.start else []
    tokens, whole = alone(text, before, BROKEN)
    if isinstance(text.end, Finished):
      assert whole
      assert_alone(text, before)
      return self.count("finished")
    code = text.end.code or str(text.status)
    assert text.tokens == tokens[: len(text.tokens)]
    assert (code == "model_error") <= (not whole and text.tokens == tokens)
    assert (code == "400") == ("" in text.ends.stop or 300 in text.settings.logit_bias) or (
      code in ("timeout", "engine_error")
    )
    return self.count(code)

  def count(self, end: str, more: int = 1) -> None:
    self.ends[end] = self.ends.get(end, 0) + more


SIZES = [(1, 2500), (3, 2500), (3, 10_000), (7, 2500)]


@pytest.mark.parametrize("size", broad_but([(3, 2500)], SIZES))
def test_random_events_lose_no_slot_and_change_no_answer(size):
  slots, events = size
  storm = Storm(slots)
  for _ in range(events):
    storm.happen()
  while not storm.scheduler.idle():
    storm.turn()
  storm.turn()
  assert storm.scheduler.status() == Status(slots, 0, 0, 0, 0)
  assert not storm.open
  wanted = {"finished", "cancelled", "model_error", "engine_error", "400"}
  assert wanted <= storm.ends.keys() and storm.ends["finished"] > 100
  assert slots > 1 or {"429", "timeout"} <= storm.ends.keys()


# -- Threads ---------------------------------------------------------------------------------------


@pytest.fixture
def make(request):
  def scheduler(seconds: float = 0.0, slots: int = 4, **limits) -> Scheduler:
    engine = FakeEngine(slots)
    engine.seconds = seconds
    own = Scheduler(engine, ByteTokenizer(), Snapshots(50_000), Limits(**limits))
    request.addfinalizer(own.stop)
    own.start()
    return own

  return scheduler


def wait_until(condition) -> None:
  for _ in range(2000):
    if condition():
      return
    time.sleep(0.005)
  raise AssertionError("it took too long")


def test_64_texts_from_several_threads(make):
  scheduler = make()
  texts = [heard("abc" * (n % 11 + 1), n % 9, seed=n % 3, owner=str(n % 5)) for n in range(64)]

  def submit(own: list[Heard]) -> None:
    for one in itertools.batched(own, 2):
      scheduler.submit(one)
      scheduler.status()

  threads = [threading.Thread(target=submit, args=(texts[n::8],)) for n in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  wait_until(scheduler.idle)
  wait_until(lambda: all(text.end for text in texts))
  for text in texts:
    assert_alone(text)
  assert scheduler.status() == Status(4, 0, 0, 0, 0)


def test_texts_are_cancelled_by_other_threads(make):
  scheduler = make(0.001, slots=2)
  texts = [heard("abc" * 9, 200, seed=n + 1) for n in range(8)]
  scheduler.submit(texts)
  wait_until(lambda: texts[0].written)
  scheduler.cancel(texts)
  wait_until(scheduler.idle)
  told = [len(text.events) for text in texts]
  scheduler.submit([last := heard("last")])
  wait_until(lambda: last.end)
  assert_alone(last)
  assert [len(text.events) for text in texts] == told


def test_thread_sleeps_when_there_is_nothing_to_do(make):
  scheduler, turns = make(), []
  turn = scheduler.turn
  scheduler.turn = lambda: (turns.append(1), turn())
  time.sleep(0.1)
  assert not turns
  scheduler.submit([text := heard("x", 3)])
  wait_until(lambda: text.end)
  time.sleep(0.1)
  assert len(turns) <= 4


def test_drain_finishes_what_it_has_and_takes_nothing_more(make):
  scheduler = make(0.001, slots=2)
  texts = [heard(f"text {n}", 10) for n in range(5)]
  scheduler.submit(texts)
  done = []
  thread = threading.Thread(target=lambda: done.append(scheduler.drain(30.0)))
  thread.start()
  wait_until(lambda: refused(scheduler) == 503)
  thread.join()
  assert done == [True]
  for text in texts:
    assert_alone(text)


def refused(scheduler: Scheduler) -> int:
  try:
    scheduler.submit([text := heard("more", 1)])
  except Refused as error:
    return error.status
  scheduler.cancel([text])
  return 0


def test_what_is_not_finished_in_time_is_refused(make):
  scheduler = make(0.001, slots=2)
  texts = [heard(f"text {n}", 100_000) for n in range(5)]
  scheduler.submit(texts)
  wait_until(lambda: texts[0].written)
  assert not scheduler.drain(0.05)
  assert [text.status for text in texts] == [503] * 5
  assert not scheduler._thread.is_alive() and scheduler.idle()


def test_stop_is_at_once_and_may_come_twice(make):
  scheduler = make(0.001)
  scheduler.submit([text := heard("text", 100_000)])
  wait_until(lambda: text.written)
  scheduler.stop()
  scheduler.stop()
  assert text.status == 503 and refused(scheduler) == 503


def test_prompt_without_tokens_is_refused():
  scheduler = Scheduler(FakeEngine(), ByteTokenizer(), Snapshots(0))
  with pytest.raises(Refused, match="a prompt has no tokens") as error:
    scheduler.submit([heard("fine"), heard("")])
  assert error.value.status == 400 and scheduler.idle()
