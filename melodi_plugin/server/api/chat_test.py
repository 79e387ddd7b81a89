"""Chat completions, asked by OpenAI's own client, against what the engine writes."""

import asyncio

import openai
import pytest

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.api.asking import seed_of
from melodi_plugin.testing.http import RoleChat, call, check_error, client
from melodi_plugin.testing.slots import END, ByteTokenizer, answer

decode = ByteTokenizer().decode
ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is there?"}]
IDS = RoleChat()(ASK)


def chat(service, **asked):
  """One answer of OpenAI's client; with `stream`, a list of its chunks."""

  async def ask():
    async with client(make_app(service)) as http:
      own = openai.AsyncOpenAI(
        api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0
      )
      told = await own.chat.completions.create(**{"model": "tiny", "messages": ASK} | asked)
      return [chunk async for chunk in told] if asked.get("stream") else told

  return asyncio.run(ask())


def joined(chunks, index=0):
  """A choice, put together of its chunks: text, end, tokens."""
  own = [c for chunk in chunks for c in chunk.choices if c.index == index]
  assert own[0].delta.role == "assistant"
  assert all(choice.delta.role is None for choice in own[1:])
  assert [bool(choice.finish_reason) for choice in own] == [False] * (len(own) - 1) + [True]
  tokens = [token for choice in own if choice.logprobs for token in choice.logprobs.content]
  return "".join(c.delta.content or "" for c in own), own[-1].finish_reason, tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_the_next_message(service, limit, stream):
  told = chat(service, temperature=0, stream=stream, **{limit: 7})
  written = answer(IDS, 7, end=END)
  if stream:
    assert joined(told)[0] == decode(written)
    assert all(chunk.usage is None for chunk in told)
  else:
    (choice,) = told.choices
    assert (choice.message.role, choice.message.content) == ("assistant", decode(written))
    assert told.usage.prompt_tokens == len(IDS)
    assert told.usage.completion_tokens == len(written)


def test_without_a_limit_it_ends_where_the_model_ends_it(service):
  told = chat(service, temperature=0)
  written = answer(IDS, 10_000, end=END)
  assert told.choices[0].message.content == decode(written)
  assert told.choices[0].finish_reason == "stop"


def test_parts_of_a_message_are_one_text(service):
  parts = [{"type": "text", "text": "Who is "}, {"type": "text", "text": "there?"}]
  messages = [ASK[0], {"role": "user", "content": parts}]
  told = chat(service, temperature=0, max_tokens=7, messages=messages)
  assert told.choices[0].message.content == decode(answer(IDS, 7, end=END))


@pytest.mark.parametrize("stream", [False, True])
def test_several_answers_with_their_tokens(service, stream):
  asked = dict(n=3, seed=11, max_tokens=5, logprobs=True, top_logprobs=2, stream=stream)
  told = chat(service, **asked, stream_options={"include_usage": True} if stream else None)
  written = [answer(IDS, 5, seed_of(11, i), end=END) for i in range(3)]
  usage = told[-1].usage if stream else told.usage
  assert usage.prompt_tokens == len(IDS)
  assert usage.completion_tokens == sum(map(len, written))
  for index, ids in enumerate(written):
    if stream:
      text, _, tokens = joined(told, index)
    else:
      text, tokens = told.choices[index].message.content, told.choices[index].logprobs.content
    assert text == decode(ids)
    assert [token.token for token in tokens] == [ByteTokenizer().shown(i) for i in ids]
    for token in tokens:
      assert token.logprob == token.top_logprobs[0].logprob == -0.5
      assert len(token.top_logprobs) == 2
      assert token.bytes == (None if token.token == "<eos>" else list(token.token.encode()))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
  ("asked", "param"),
  [
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages"),
    ({"messages": [{"role": "wizard", "content": "Hello"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
    ({"n": 99}, "n"),
    ({"session": "mine"}, "session"),
  ],
)
def test_what_is_refused(service, asked, param, stream):
  asked = {"messages": ASK, "stream": stream} | asked
  check_error(call(service, "POST", "/v1/chat/completions", json=asked), 400, param)


def test_what_asks_for_nothing_is_no_error(service):
  empty = {"tools": [], "functions": None, "modalities": ["text"]}
  empty |= {"response_format": {"type": "text"}, "tool_choice": "none", "max_tokens": 1}
  told = call(service, "POST", "/v1/chat/completions", json={"messages": ASK} | empty)
  assert told.is_success
  assert told.headers["x-melodi-ignored"] == "tool_choice"


def test_a_model_without_a_template(service):
  service.chat = None
  told = call(service, "POST", "/v1/chat/completions", json={"messages": ASK})
  assert "chat_template" in check_error(told, 400, "messages")


def test_a_developer_is_the_system_to_a_template_as_in_responses(service):
  asked = {"max_completion_tokens": 4, "temperature": 0}
  told = [
    call(
      service,
      "POST",
      "/v1/chat/completions",
      json=asked | {"messages": [{"role": role, "content": "Be brief."}]},
    ).json()["choices"]
    for role in ("system", "developer")
  ]
  assert told[0] == told[1]
