"""Completions, asked by OpenAI's own client, against what the engine writes."""

import asyncio
import json

import openai
import pytest

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.api.asking import seed_of
from melodi_plugin.server.service import ServeLimits
from melodi_plugin.testing.http import call, check_error, client
from melodi_plugin.testing.slots import END, ByteTokenizer, answer

decode = ByteTokenizer().decode


def complete(service, **asked):
  """One answer of OpenAI's client; with `stream`, a list of its pieces."""

  async def ask():
    app = make_app(service)
    async with client(app) as http:
      own = openai.AsyncOpenAI(
        api_key="none", base_url="http://localhost/v1", http_client=http, max_retries=0
      )
      told = await own.completions.create(model="tiny", **asked)
      return [piece async for piece in told] if asked.get("stream") else told

  return asyncio.run(ask())


def joined(pieces, index=0):
  """A choice, put together of its pieces: text, end, logprobs."""
  own = [c for piece in pieces for c in piece.choices if c.index == index]
  (finish,) = [choice.finish_reason for choice in own if choice.finish_reason]
  assert own[-1].finish_reason
  logprobs = {}
  for choice in own:
    for name, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
      logprobs.setdefault(name, []).extend(values)
  return "".join(choice.text for choice in own), finish, logprobs


def prompt_that_ends(within=12):
  """A prompt whose answer ends by itself, not at once; and what is written, with its end."""
  for number in range(10_000):
    written = answer(list(f"{number}".encode()), within, end=END)
    if written[-1] == END and len(written) > 3:
      return f"{number}", written
  raise AssertionError("The engine never ends.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
  "prompt",
  ["hello", ["hello", "é", "hello"], [104, 101, 33], [[104], [105, 106]]],
  ids=["text", "texts", "ids", "lists"],
)
def test_every_prompt_has_its_own_text(service, prompt, stream):
  prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
  ids = [list(p.encode()) if isinstance(p, str) else p for p in prompts]
  told = complete(service, prompt=prompt, max_tokens=9, temperature=0, stream=stream)
  texts = [decode(answer(own, 9, end=END)) for own in ids]
  if stream:
    assert [joined(told, i)[0] for i in range(len(ids))] == texts
  else:
    assert [choice.text for choice in told.choices] == texts
    assert [choice.index for choice in told.choices] == list(range(len(ids)))
    assert told.usage.prompt_tokens == sum(map(len, ids))
    assert told.usage.completion_tokens == sum(len(answer(own, 9, end=END)) for own in ids)
    assert told.model == "tiny"


@pytest.mark.parametrize("stream", [False, True])
def test_n_texts_of_one_prompt_are_drawn_with_their_own_seeds(service, stream):
  asked = dict(prompt=["one", "two"], n=3, seed=5, max_tokens=6, stream=stream)
  told = complete(service, stream_options={"include_usage": True} if stream else None, **asked)
  written = [
    answer(list(prompt), 6, seed_of(5, number), end=END)
    for prompt in (b"one", b"two")
    for number in range(3)
  ]
  texts, count = [decode(ids) for ids in written], sum(map(len, written))
  usage = told[-1].usage if stream else told.usage
  got = [joined(told, i)[0] for i in range(6)] if stream else [c.text for c in told.choices]
  assert got == texts
  assert len(set(texts)) == 6
  assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, count, count + 6)
  if stream:
    assert told[-1].choices == []
    assert all(piece.usage is None for piece in told[:-1])


def test_without_a_seed_every_text_is_another(service):
  texts = [c.text for c in complete(service, prompt=["a", "a"], n=4, max_tokens=9).choices]
  assert len(set(texts)) == 8
  greedy = complete(service, prompt=["a", "a"], n=2, max_tokens=9, temperature=0).choices
  assert len({choice.text for choice in greedy}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_text_ends_before_a_stop_string_that_spans_tokens(service, stream):
  whole = decode(answer(list(b"go"), 12, end=END))
  stop = whole[4:7]
  told = complete(
    service, prompt="go", max_tokens=12, temperature=0, stop=["never", stop], stream=stream
  )
  text, finish = (
    joined(told)[:2] if stream else (told.choices[0].text, told.choices[0].finish_reason)
  )
  assert (text, finish) == (whole[: whole.index(stop)], "stop")
  assert complete(service, prompt="go", temperature=0, stop=stop).usage.completion_tokens == 7


def test_the_end_of_a_text_is_told_or_ignored(service):
  prompt, written = prompt_that_ends()
  asked = dict(prompt=prompt, max_tokens=20, temperature=0)
  told = complete(service, **asked)
  assert (told.choices[0].text, told.choices[0].finish_reason) == (decode(written), "stop")
  assert told.usage.completion_tokens == len(written)
  on = complete(service, extra_body={"ignore_eos": True}, **asked)
  assert on.choices[0].text == decode(answer(list(prompt.encode()), 20))
  assert on.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1, 20])
def test_lm_eval_finds_every_token_of_prompt_and_text(service, max_tokens, stream):
  prompt, written = prompt_that_ends()
  asked = dict(prompt=prompt, max_tokens=max_tokens, temperature=0, echo=True, logprobs=3)
  told = complete(service, stream=stream, **asked)
  if stream:
    text, finish, logprobs = joined(told)
  else:
    choice = told.choices[0]
    text, finish, logprobs = choice.text, choice.finish_reason, choice.logprobs.model_dump()
  ids = list(prompt.encode())
  all_ids = [*ids, *written[:max_tokens]]
  assert text == prompt + decode(written[:max_tokens])
  assert finish == ("stop" if max_tokens == 20 else "length")
  assert {len(values) for values in logprobs.values()} == {len(all_ids)}
  assert logprobs["tokens"] == [ByteTokenizer().shown(i) for i in all_ids]
  if max_tokens == 20:
    assert logprobs["tokens"][-1] == "<eos>"
  assert logprobs["text_offset"] == list(range(len(all_ids)))
  assert logprobs["token_logprobs"][0] is None
  assert logprobs["top_logprobs"][0] is None
  for at in range(1, len(all_ids)):
    own, tops = logprobs["token_logprobs"][at], logprobs["top_logprobs"][at]
    (best,) = answer(all_ids[:at], 1)
    assert own == -0.5 - abs(best - all_ids[at])
    assert max(tops.values()) == tops[ByteTokenizer().shown(best)] == -0.5
    assert tops[logprobs["tokens"][at]] == own
    assert 3 <= len(tops) <= 4


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_the_text_alone(service, stream):
  asked = dict(prompt="é", max_tokens=5, temperature=0, logprobs=0)
  told = complete(service, stream=stream, **asked)
  logprobs = joined(told)[2] if stream else told.choices[0].logprobs.model_dump()
  written = answer(list("é".encode()), 5)
  assert logprobs["tokens"] == [chr(i) for i in written]
  assert logprobs["token_logprobs"] == [-0.5] * 5
  assert logprobs["top_logprobs"] == [{chr(i): -0.5} for i in written]
  assert logprobs["text_offset"] == [0, 1, 2, 3, 4]


def test_characters_of_several_tokens_begin_where_they_stand(service):
  told = complete(service, prompt="aé€b", max_tokens=0, echo=True, logprobs=1)
  assert told.choices[0].text == "aé€b"
  assert told.choices[0].logprobs.text_offset == [0, 1, 1, 2, 2, 2, 3]


def test_echo_alone(service):
  told = complete(service, prompt=[[104, END], [105]], max_tokens=0, echo=True)
  assert [choice.text for choice in told.choices] == ["h", "i"]
  assert told.choices[0].logprobs is None
  assert told.choices[0].finish_reason == "length"
  assert told.usage.completion_tokens == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
  ("asked", "param"),
  [
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt"),
    ({"prompt": [[1], 1]}, "prompt"),
    ({"prompt": [259]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [2**80]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "x"}, "suffix"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True, "echo": "?"}, "echo"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ["a" * 501]}, "stop"),
    ({"stop": 3}, "stop"),
    ({"temperature": -1}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": "much"}, "frequency_penalty"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"259": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"seed": 2**64}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"session": "mine"}, "session"),
    ({"memory": "book"}, "memory"),
    ({"stream_options": 3}, "stream_options"),
  ],
)
def test_what_is_refused(service, asked, param, stream):
  asked = ({"prompt": "a"} if asked else {}) | asked | {"stream": stream}
  told = call(service, "POST", "/v1/completions", json=asked)
  assert len(check_error(told, 400, param)) < 300


def test_long_prompts_other_models_and_full_queues_are_refused(service):
  limits = service.limits
  service.limits = type(limits)(max_prompt_tokens=3)
  long = call(service, "POST", "/v1/completions", json={"prompt": "four"})
  check_error(long, 400, "prompt")
  assert long.json()["error"]["code"] == "context_length_exceeded"
  service.limits = limits
  with pytest.raises(openai.NotFoundError, match="not served here") as error:
    complete_with_model(service)
  assert error.value.code == "model_not_found"


def complete_with_model(service):
  async def ask():
    async with client(make_app(service)) as http:
      own = openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=http)
      await own.completions.create(model="gpt", prompt="a")

  asyncio.run(ask())


def test_fields_that_count_for_nothing(service):
  asked = {"prompt": "a", "user": "me", "max_completion_tokens": 3, "top_p": None, "temperature": 0}
  told = call(service, "POST", "/v1/completions", json=asked)
  assert told.headers["x-melodi-ignored"] == "max_completion_tokens"
  assert len(told.json()["choices"][0]["text"]) > 3


def test_a_stream_on_the_wire(service):
  told = call(
    service, "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 2, "stream": True}
  )
  assert told.headers["content-type"].startswith("text/event-stream")
  assert told.headers["x-request-id"]
  events = told.text.split("\n\n")
  assert events[-2:] == ["data: [DONE]", ""]
  assert [json.loads(e.removeprefix("data: "))["object"] for e in events[:-2]] == [
    "text_completion"
  ] * 2


def test_a_server_that_writes_less_than_the_default_writes_that(service):
  service.limits = ServeLimits(max_tokens=3)
  told = call(service, "POST", "/v1/completions", json={"prompt": "a", "ignore_eos": True}).json()
  assert told["usage"]["completion_tokens"] == 3
