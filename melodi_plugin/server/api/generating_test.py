"""Clients that go away, texts that fail half way, and what is kept before the last byte."""

import asyncio
import json
import time

import pytest

from melodi_plugin.server.api import generating
from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.conversations import Conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.queue import Limits
from melodi_plugin.server.scheduler import Scheduler
from melodi_plugin.server.states.store import Store
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.testing.http import (
  RoleChat,
  ask_by_hand,
  call,
  check_error,
  client,
  stop,
  tiny_service,
)
from melodi_plugin.testing.slots import END, ByteTokenizer, FakeEngine, answer, load_row, save_row

decode = ByteTokenizer().decode
LONG = {"prompt": "a", "max_tokens": 30_000, "ignore_eos": True}


@pytest.fixture
def engine():
  return FakeEngine()


@pytest.fixture
def service(request, engine):
  service = tiny_service(engine)
  request.addfinalizer(lambda: stop(service))  # noqa: PT021, jaxtyping wraps generators
  return service


def free(service, within=5):
  """Whether all slots are free soon."""
  until = time.monotonic() + within
  while time.monotonic() < until and not service.scheduler.idle():
    time.sleep(0.01)
  return service.scheduler.idle()


def leave(service, body, *, after_parts):
  """Asks, and goes away when so many parts of the answer came; what was sent until then."""

  async def ask():
    sent, gone = [], asyncio.Event()

    async def leaves():
      if after_parts:
        await gone.wait()
      else:
        while service.scheduler.idle():  # until it is written
          await asyncio.sleep(0.001)

    async def send(message):
      sent.append(message)
      if len(sent) >= after_parts:
        gone.set()

    await ask_by_hand(make_app(service), body, send, leaves)
    return sent

  return asyncio.run(ask())


@pytest.mark.parametrize("n", [1, 9])
def test_texts_of_a_client_that_leaves_a_stream_are_given_up(service, engine, n):
  engine.seconds = 0.002
  sent = leave(service, LONG | {"stream": True, "n": n}, after_parts=4)
  assert sent[0]["status"] == 200
  assert free(service)
  assert len(engine.calls) < 1000


def test_texts_of_a_client_that_does_not_wait_for_the_whole_are_given_up(service, engine):
  engine.seconds = 0.002
  sent = leave(service, LONG | {"n": 6}, after_parts=0)
  assert [message.get("status") for message in sent] == [499, None]
  assert free(service)
  assert len(engine.calls) < 1000


def test_a_text_that_fails_half_way(service, engine):
  prompt = "abc"
  written = answer(list(prompt.encode()), 9)
  engine.broken = {written[3]}
  asked = {"prompt": prompt, "max_tokens": 9, "temperature": 0}
  whole = call(service, "POST", "/v1/completions", json=asked)
  check_error(whole, 500)
  assert whole.json()["error"]["code"] == "model_error"
  told = call(service, "POST", "/v1/completions", json=asked | {"stream": True})
  assert told.status_code == 200
  events = [json.loads(e.removeprefix("data: ")) for e in told.text.split("\n\n") if e]
  first = written.index(written[3]) + 1
  assert "".join(e["choices"][0]["text"] for e in events[:-1]) == decode(written[:first])
  assert events[-1] == whole.json()
  engine.broken = set()
  assert call(service, "POST", "/v1/completions", json=asked).is_success


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue_has_its_status(request, engine, stream):
  service = tiny_service(engine)
  stop(service)
  service.scheduler = Scheduler(engine, ByteTokenizer(), Snapshots(0), Limits(queue_texts=3))
  asked = {"prompt": "a", "n": 3, "max_tokens": 2}

  async def ask():
    async with client(make_app(service)) as asks:
      first = asyncio.create_task(asks.post("/v1/completions", json=asked))
      while service.scheduler.idle():
        await asyncio.sleep(0.001)
      full = await asks.post("/v1/completions", json=asked | {"stream": stream})
      service.scheduler.start()
      return await first, full

  first, full = asyncio.run(ask())
  check_error(full, 429)
  assert int(full.headers["retry-after"]) > 0
  assert first.is_success
  check_error(call(service, "POST", "/v1/completions", json=asked | {"n": 4}), 413)
  stop(service)
  check_error(call(service, "POST", "/v1/completions", json=asked | {"stream": stream}), 503)


def kept(tmp_path, engine, request):
  """A service that keeps states."""
  store = Store(str(tmp_path), save_row, load_row)
  service = tiny_service(engine, store=store)
  request.addfinalizer(store.close)
  request.addfinalizer(lambda: stop(service))
  return service


def text_of(told, stream):
  """What was written."""
  if not stream:
    return told.json()["choices"][0]["message"]["content"]
  events = [json.loads(e[6:]) for e in told.text.split("\n\n") if e and e != "data: [DONE]"]
  return "".join(e["choices"][0]["delta"].get("content", "") for e in events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_goes_on_with_new_messages_alone(request, tmp_path, engine, stream):
  service, ids = kept(tmp_path, engine, request), []
  for turn in range(4):
    messages = [{"role": "user", "content": f"This is {turn}."}]
    asked = {"messages": messages, "session": "mine", "max_tokens": 6, "temperature": 0}
    told = call(service, "POST", "/v1/chat/completions", json=asked | {"stream": stream})
    new = RoleChat().after_answer(messages, ids[-1]) if ids else RoleChat()(messages)
    written = answer([*ids, *new], 6, end=END)
    assert text_of(told, stream) == decode(written)
    ids += [*new, *written]
    if not stream:
      assert told.json()["usage"]["prompt_tokens"] == len(new)


def test_texts_and_scores_go_on_from_a_session(request, tmp_path, engine):
  service = kept(tmp_path, engine, request)
  asked = {"session": "mine", "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 1}
  one = call(service, "POST", "/v1/completions", json=asked | {"prompt": "abc"}).json()
  two = call(service, "POST", "/v1/completions", json=asked | {"prompt": "de"}).json()
  ids = list(b"abc")
  ids += answer(ids, 3, end=END)
  (choice,) = two["choices"]
  assert one["choices"][0]["logprobs"]["token_logprobs"][0] is None
  assert choice["text"] == "de" + decode(answer([*ids, *b"de"], 3, end=END))
  (best,) = answer(ids, 1)
  assert choice["logprobs"]["token_logprobs"][0] == -0.5 - abs(best - ord("d"))
  assert len(choice["logprobs"]["tokens"]) == 2 + two["usage"]["completion_tokens"]
  assert two["usage"]["prompt_tokens"] == 2
  several = asked | {"prompt": ["a", "b"]}
  check_error(call(service, "POST", "/v1/completions", json=several), 400, "session")
  unknown = {"prompt": "a", "memory": "book"}
  assert call(service, "POST", "/v1/completions", json=unknown).status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_no_last_byte_before_all_is_kept(request, tmp_path, engine, stream, monkeypatch):
  service = kept(tmp_path, engine, request)

  async def full(*args, **more):
    raise Refused(503, "The disk is full.")

  monkeypatch.setattr(Conversation, "keep", full)
  asked = {"prompt": "abc", "session": "mine", "max_tokens": 3, "stream": stream}
  told = call(service, "POST", "/v1/completions", json=asked)
  if stream:
    assert "[DONE]" not in told.text
    assert json.loads(told.text.split("\n\n")[-2][6:])["error"]["message"] == "The disk is full."
  else:
    check_error(told, 503)


def test_a_session_can_go_on_as_soon_as_its_answer_is_told(request, tmp_path, engine):
  service, heard = kept(tmp_path, engine, request), []

  async def send(message):
    if b"[DONE]" in message.get("body", b""):
      with service.store.claims.claimed("session", "", "mine"):
        heard.append(message)

  body = {"prompt": "a", "max_tokens": 2, "session": "mine", "stream": True}
  asyncio.run(ask_by_hand(make_app(service), body, send))
  assert heard


def test_a_client_that_takes_nothing_holds_nothing(request, tmp_path, engine, monkeypatch):
  service = kept(tmp_path, engine, request)
  monkeypatch.setattr(generating, "_SEND_SECONDS", 0.05)

  async def send(message):
    if message["type"] == "http.response.body":
      await asyncio.Event().wait()

  body = LONG | {"session": "mine", "stream": True}
  asyncio.run(ask_by_hand(make_app(service), body, send))
  assert free(service)
  with service.store.claims.claimed("session", "", "mine"):
    pass


def test_a_client_that_leaves_while_it_asks_is_no_error_of_the_server(service, caplog):
  sent = []

  async def send(message):
    sent.append(message)

  async def leaves():
    pass

  asyncio.run(ask_by_hand(make_app(service), None, send, leaves))
  assert sent[0]["status"] == 499 and not caplog.text


def test_what_a_session_has_pending_is_not_counted_as_cached(request, tmp_path, engine):
  service = kept(tmp_path, engine, request)
  body = {"prompt": "abc", "max_tokens": 2, "session": "mine", "ignore_eos": True}
  call(service, "POST", "/v1/completions", json=body)
  call(service, "POST", "/v1/sessions", json={"name": "other", "from": "mine"})
  told = [
    call(service, "POST", "/v1/completions", json=body | {"prompt": "defgh", "session": name})
    for name in ("mine", "other")
  ]
  cached = [one.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for one in told]
  assert cached == [0, 4]


def test_what_the_scheduler_does_is_counted(service):
  asked = {"prompt": "abcdefgh" * 9, "max_tokens": 3, "temperature": 0}
  usages = [call(service, "POST", "/v1/completions", json=asked).json()["usage"] for _ in "ab"]
  assert usages[0]["prompt_tokens_details"]["cached_tokens"] == 0
  assert 0 < usages[1]["prompt_tokens_details"]["cached_tokens"] < 72
  told = call(service, "GET", "/metrics").text
  written = sum(usage["completion_tokens"] for usage in usages)
  assert f'melodi_tokens_total{{kind="generated"}} {written}.0' in told
  assert 'melodi_tokens_total{kind="prompt"} 144.0' in told
  assert "melodi_snapshot_hits_total 1.0" in told
  assert 'melodi_slots{state="free"} 4.0' in told
  assert "melodi_time_to_first_token_seconds_count 2.0" in told


def test_many_clients_at_once_each_have_their_own_text(service):
  async def ask():
    async with client(make_app(service)) as asks:

      async def one(number):
        body = {"prompt": f"text {number}", "max_tokens": 20, "seed": number + 1}
        return (await asks.post("/v1/completions", json=body)).json()["choices"][0]["text"]

      return await asyncio.gather(*(one(number) for number in range(64)))

  for number, text in enumerate(asyncio.run(ask())):
    ids = list(f"text {number}".encode())
    assert text == decode(answer(ids, 20, number + 1, end=END))
