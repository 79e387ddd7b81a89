"""Texts that go on from others, and are kept."""

import asyncio
import contextlib

import pytest

from melodi_plugin.server.answers import Wanted, answers
from melodi_plugin.server.conversations import conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.scheduler import Scheduler
from melodi_plugin.server.states.store import Store
from melodi_plugin.server.texts import Finished
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.serving.writing import Ends
from melodi_plugin.testing.slots import ByteTokenizer, FakeEngine, answer, load_row, save_row


@pytest.fixture
def store(tmp_path, request):
  own = Store(str(tmp_path), save_row, load_row)
  # A fixture that yields is no fixture any more once jaxtyping has wrapped it.
  request.addfinalizer(own.close)  # noqa: PT021
  return own


@contextlib.contextmanager
def started():
  scheduler = Scheduler(FakeEngine(), ByteTokenizer(), Snapshots(0))
  scheduler.start()
  try:
    yield scheduler
  finally:
    scheduler.stop()


async def turn(store, text, owner="ann", kind="session", count=3, kept=True, **rest):
  """Says something, and keeps the answer; returns the id and the tokens that were written."""
  async with conversation(store, owner, kind, **rest) as own:
    prompt = own.prompt(ByteTokenizer().encode(text))
    wanted = Wanted(prompt, SamplingSettings(temperature=0.0), Ends(count), owner, keep=True)
    written = []
    with started() as scheduler:
      async with answers(scheduler, [wanted]) as events:
        async for _, event in events:
          if isinstance(event, Finished):
            if kept:
              await own.keep(event, body={"id": own.id})
          elif hasattr(event, "drawn"):
            written.append(event.drawn.token)
    return own.id, written


def run(*args, **kwargs):
  return asyncio.run(turn(*args, **kwargs))


def refused(status, *args, **kwargs):
  with pytest.raises(Refused) as error:
    run(*args, **kwargs)
  assert error.value.status == status, error.value.message
  return error.value


def test_a_session_reads_on_as_if_nothing_had_come_between(store):
  _, first = run(store, "one", session="chat")
  _, second = run(store, "two", session="chat")
  said = [*b"one", *first, *b"two"]
  assert first == answer(b"one", 3) and second == answer(said, 3)
  run(store, "lost", session="chat", kept=False)
  assert run(store, "three", session="chat")[1] == answer([*said, *second, *b"three"], 3)
  assert store.all_named("session", "ann")[0].state.tokens == len(said) + 3 + 5 + 3


def test_responses_are_gone_on_from_any_number_of_times(store):
  id, first = run(store, "one", kind="response")
  for text in (b"two", b"2"):
    own, written = run(store, text.decode(), kind="response", previous_response_id=id)
    assert written == answer([*b"one", *first, *text], 3)
    assert store.body("ann", own) == {"id": own}
    assert store.open("ann", own).entry.parent == id


def test_a_memory_is_read_once_and_asked_in_several_sessions(store):
  row, pending = FakeEngine(), (ord("t"),)
  row.read_all({0: ByteTokenizer().prompt("a documen")})
  store.add("ann", "memory", row.extract(0), pending, tokens=10, memory="doc")
  for name in ("a", "b"):
    _, first = run(store, " one", session=name, memory="doc")
    assert first == answer(b"a document one", 3)
    _, second = run(store, " two", session=name)
    assert second == answer([*b"a document one", *first, *b" two"], 3)
  assert run(store, " one", memory="doc", kept=False)[1] == answer(b"a document one", 3)
  assert refused(400, store, "x", session="a", memory="doc").param == "memory"
  assert store.stats()[2:] == (2, 1)


def test_what_does_not_go_together_or_is_not_there(store):
  id, _ = run(store, "one", kind="response")
  for other in ({"session": "chat"}, {"memory": "doc"}):
    assert refused(400, store, "x", previous_response_id=id, **other).param
    refused(400, None, "x", **other)
  refused(404, store, "x", previous_response_id="resp_1")
  refused(404, store, "x", owner="bob", previous_response_id=id)
  refused(404, store, "x", session="new", memory="none")
  refused(400, store, "x", session="../chat")
  refused(400, store, "", session="new")
  assert run(None, "one", kept=False)[1] == answer(b"one", 3)


def test_a_session_is_one_request_at_a_time(store):
  run(store, "one", session="chat")

  async def both():
    async with conversation(store, "ann", "session", session="chat"):
      with pytest.raises(Refused) as error:
        await turn(store, "two", session="chat")
      assert (error.value.status, error.value.code) == (409, "session_busy")
      await turn(store, "two", session="other")
      await turn(store, "two", session="chat", owner="bob")
    await turn(store, "two", session="chat")

  asyncio.run(both())


def test_a_session_that_was_deleted_meanwhile_is_not_there_again(store):
  run(store, "one", session="chat")

  async def deleted():
    async with conversation(store, "ann", "session", session="chat") as own:
      store.forget("session", "ann", "chat")
      engine = FakeEngine()
      with pytest.raises(Refused) as error:
        await own.keep(Finished(engine.extract(0), (1,)))
      assert error.value.status == 409

  asyncio.run(deleted())
  assert store.stats() == (0, 0, 0, 0)
