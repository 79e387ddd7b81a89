"""Responses, asked by OpenAI's own client, against what the engine writes."""

import asyncio
import json

import openai
import pytest
from openai.types.responses import Response

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.service import Access
from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.http import RoleChat, call, check_error, client
from melodi_plugin.testing.slots import END, ByteTokenizer, answer, load_row, save_row

TOKENS = 9
decode = ByteTokenizer().decode


@pytest.fixture
def kept(service, tmp_path, request):
  """The service, with a store."""
  service.store = Store(str(tmp_path), save_row, load_row)
  request.addfinalizer(service.store.close)  # noqa: PT021, jaxtyping wraps fixtures
  return service


def ask(service, use, key="none"):
  """What `use` makes of OpenAI's client."""

  async def run():
    async with client(make_app(service)) as http:
      return await use(
        openai.AsyncOpenAI(
          api_key=key, base_url="http://localhost/v1", http_client=http, max_retries=0
        )
      )

  return asyncio.run(run())


def respond(service, input, key="none", **more):
  """One response; with `stream`, a list of its events."""
  asked = dict(model="tiny", input=input, max_output_tokens=TOKENS, temperature=0) | more

  async def use(own):
    told = await own.responses.create(**asked)
    return [event async for event in told] if asked.get("stream") else told

  return ask(service, use, key)


def written(*turns):
  """The answer to the last of these messages, each of which answers the one before."""
  chat = RoleChat()
  ids = chat([{"role": "user", "content": turns[0]}])
  for text in turns[1:]:
    told = answer(ids, TOKENS, end=END)
    ids = [*ids, *told, *chat.after_answer([{"role": "user", "content": text}], told[-1])]
  return decode(answer(ids, TOKENS, end=END))


def test_an_answer_is_kept_and_found_by_its_id(kept):
  own = respond(kept, "one", metadata={"a": "b"}, instructions="be short")
  messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "one"}]
  ids = RoleChat()(messages)
  assert own.output_text == decode(answer(ids, TOKENS, end=END))
  assert (own.usage.input_tokens, own.usage.output_tokens) == (len(ids), TOKENS)
  assert own.usage.input_tokens_details.cached_tokens == 0
  assert (own.status, own.incomplete_details.reason) == ("incomplete", "max_output_tokens")
  assert (own.metadata, own.instructions, own.temperature) == ({"a": "b"}, "be short", 0)
  assert ask(kept, lambda client: client.responses.retrieve(own.id)) == own
  Response.model_validate(own.model_dump(), strict=True)
  again = respond(kept, "one", instructions="be short")
  assert again.usage.input_tokens_details.cached_tokens > 0


def test_responses_go_on_from_each_other_with_new_messages_only(kept):
  said, before = [], None
  for text in ("one", "two", "three"):
    said.append(text)
    own = respond(kept, text, previous_response_id=before)
    assert own.output_text == written(*said)
    assert own.previous_response_id == before
    assert own.usage.input_tokens <= len(f"{END}\nu:three\na:")
    before = own.id
  for text in ("3", "drei"):
    said[2] = text
    fork = respond(kept, text, previous_response_id=own.previous_response_id)
    assert fork.output_text == written(*said)


def test_many_go_on_from_one_at_once(kept):
  first = respond(kept, "one")
  texts = [f"{number}" for number in range(8)]

  async def use(own):
    asked = dict(model="tiny", previous_response_id=first.id, max_output_tokens=TOKENS)
    asks = [own.responses.create(input=text, temperature=0, **asked) for text in texts]
    return await asyncio.gather(*asks)

  for text, told in zip(texts, ask(kept, use), strict=True):
    assert told.output_text == written("one", text)


def test_a_response_begins_with_a_memory(kept):
  call(kept, "POST", "/v1/memories", json={"name": "doc", "text": "It was July."})
  own = respond(kept, "one", extra_body={"memory": "doc"})
  ids = [*b"It was July.", *RoleChat()([{"role": "user", "content": "one"}])]
  assert own.output_text == decode(answer(ids, TOKENS, end=END))
  both = {"input": "one", "memory": "doc", "previous_response_id": own.id}
  check_error(call(kept, "POST", "/v1/responses", json=both), 400, "previous_response_id")


def test_a_response_is_deleted_and_those_behind_it_stay(kept):
  first = respond(kept, "one")
  second = respond(kept, "two", previous_response_id=first.id)
  assert call(kept, "DELETE", f"/v1/responses/{first.id}").json()["deleted"]
  check_error(call(kept, "GET", f"/v1/responses/{first.id}"), 404)
  check_error(call(kept, "DELETE", f"/v1/responses/{first.id}"), 404)
  with pytest.raises(openai.NotFoundError):
    respond(kept, "two", previous_response_id=first.id)
  third = respond(kept, "three", previous_response_id=second.id)
  assert third.output_text == written("one", "two", "three")


def test_a_stream_has_the_events_of_openai_in_their_order(kept):
  events = respond(kept, "one", stream=True)
  kinds = [event.type for event in events]
  deltas = kinds.count("response.output_text.delta")
  assert kinds == [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * deltas,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.incomplete",
  ]
  assert [event.sequence_number for event in events] == list(range(len(events)))
  for event in events:
    type(event).model_validate(event.model_dump(), strict=True)
  whole, text = events[-1].response, written("one")
  assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == text
  assert whole.output_text == events[-4].text == events[-3].part.text == text
  assert events[-2].item == whole.output[0]
  assert ask(kept, lambda client: client.responses.retrieve(whole.id)) == whole
  (second,) = respond(kept, "two", previous_response_id=whole.id, stream=True)[-1:]
  assert second.response.output_text == written("one", "two")


def test_an_answer_that_ends_by_itself_is_complete(kept):
  for number in range(1000):
    text = f"{number}"
    ids = RoleChat()([{"role": "user", "content": text}])
    told = answer(ids, TOKENS, end=END)
    if told[-1] == END and len(told) > 2:
      break
  own = respond(kept, text)
  assert (own.status, own.incomplete_details) == ("completed", None)
  assert own.output[0].status == "completed"
  (last,) = respond(kept, text, stream=True)[-1:]
  assert last.type == "response.completed"
  second = respond(kept, "two", previous_response_id=own.id)
  assert second.output_text == written(text, "two")


def test_it_is_durable_before_the_stream_says_that_it_is_done(kept):
  def full(*_, **__):
    raise openai.OpenAIError("the disk is full")

  kept.store.add = full
  with pytest.raises(openai.APIError, match="log"):
    respond(kept, "one", stream=True)
  asked = {"input": "one", "max_output_tokens": TOKENS, "temperature": 0, "stream": True}
  raw = call(kept, "POST", "/v1/responses", json=asked).text
  assert "response.output_text.delta" in raw and "response.output_text.done" not in raw
  last = json.loads(raw.strip().split("data: ")[-1])
  assert last["type"] == "error" and last["error"]["type"] == "server_error"
  with pytest.raises(openai.InternalServerError):
    respond(kept, "one")


def test_what_is_not_to_be_kept_is_not(kept):
  for store in (True, False):
    own = respond(kept, "one", store=store)
    assert own.output_text == written("one")
    found = call(kept, "GET", f"/v1/responses/{own.id}")
    assert found.is_success == store
  assert kept.store.stats().states == 1


def test_without_a_store_nothing_is_kept(service):
  own = respond(service, "one")
  assert own.output_text == written("one")
  for method in ("GET", "DELETE"):
    check_error(call(service, method, f"/v1/responses/{own.id}"), 404)
  with pytest.raises(openai.BadRequestError, match="melodi_serve_folder"):
    respond(service, "two", previous_response_id=own.id)


def test_another_key_finds_nothing(kept):
  kept.access = Access(keys=["one", "two"])
  own = respond(kept, "one", key="one")
  with pytest.raises(openai.NotFoundError):
    respond(kept, "two", key="two", previous_response_id=own.id)
  other = {"authorization": "Bearer two"}
  check_error(call(kept, "GET", f"/v1/responses/{own.id}", headers=other), 404)
  check_error(call(kept, "DELETE", f"/v1/responses/{own.id}", headers=other), 404)
  assert respond(kept, "two", key="one", previous_response_id=own.id)


def test_messages_and_their_parts(service):
  parts = [{"type": "input_text", "text": "o"}, {"type": "input_text", "text": "ne"}]
  told = [{"type": "output_text", "text": "yes", "annotations": []}]
  given = [
    {"role": "developer", "content": "be short"},
    {"type": "message", "role": "user", "content": parts},
    {"role": "assistant", "content": told, "id": "msg_1", "status": "completed"},
    {"role": "user", "content": "two"},
  ]
  said = {"system": "be short", "user": "one", "assistant": "yes"}
  messages = [{"role": role, "content": text} for role, text in said.items()]
  messages.append({"role": "user", "content": "two"})
  expected = decode(answer(RoleChat()(messages), TOKENS, end=END))
  assert respond(service, given).output_text == expected


def test_without_a_chat_template_the_input_is_the_prompt(kept):
  kept.chat = None
  own = respond(kept, "one")
  first = answer(b"one", TOKENS, end=END)
  assert own.output_text == decode(first)
  second = respond(kept, "two", previous_response_id=own.id)
  assert second.output_text == decode(answer([*b"one", *first, *b"two"], TOKENS, end=END))
  for wrong in ({"input": [{"role": "user", "content": "one"}]}, {"instructions": "be short"}):
    body = {"input": "one"} | wrong
    check_error(call(kept, "POST", "/v1/responses", json=body), 400, next(iter(wrong)))


@pytest.mark.parametrize(
  ("wrong", "param"),
  [
    ({"tools": [{"type": "web_search"}]}, "tools"),
    ({"reasoning": {"effort": "low"}}, "reasoning"),
    ({"background": True}, "background"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"truncation": "auto"}, "truncation"),
    ({"text": {"format": {"type": "json_object"}}}, "text"),
    ({"session": "chat"}, "session"),
    ({"n": 2}, "n"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 10**9}, "max_output_tokens"),
    ({"temperature": -1}, "temperature"),
    ({"instructions": "be short", "previous_response_id": "resp_1"}, "instructions"),
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
    ({"input": None}, "input"),
  ],
)
def test_what_is_not_done_here_is_refused(service, wrong, param):
  check_error(call(service, "POST", "/v1/responses", json={"input": "one"} | wrong), 400, param)


def test_fields_that_count_for_nothing_are_harmless(service):
  more = {"tools": [], "reasoning": None, "background": False, "parallel_tool_calls": True}
  told = call(service, "POST", "/v1/responses", json={"input": "one", "user": "me"} | more)
  assert told.is_success
  assert told.headers["x-melodi-ignored"] == "parallel_tool_calls"
