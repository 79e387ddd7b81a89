"""Requests of all kinds: each is answered with a status that is documented, and nothing is left."""

import asyncio
import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.errors import KINDS
from melodi_plugin.server.service import ServeLimits
from melodi_plugin.testing.http import call, stop, tiny_service

_LIMITS = ServeLimits(max_prompt_tokens=50, max_tokens=20, max_choices=5, max_body_bytes=4000)
_json = st.recursive(
  st.none() | st.booleans() | st.integers(-3, 300) | st.integers() | st.floats() | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
  max_leaves=6,
)
_text = st.text(max_size=20)
_ids = st.lists(st.integers(-1, 260), max_size=9)
_messages = st.fixed_dictionaries(
  {"role": st.sampled_from(["user", "assistant", "system", "tool", ""]), "content": _text | _json}
)
_numbers = st.integers(-1, 25) | st.floats(-1, 3)
_FIELDS = {
  "model": st.sampled_from(["tiny", "other", None]),
  "prompt": _text | _ids | st.lists(_text, max_size=3) | st.lists(_ids, max_size=3),
  "messages": st.lists(_messages, max_size=4),
  "tokens": _ids,
  "max_tokens": _numbers,
  "max_completion_tokens": _numbers,
  "temperature": _numbers,
  "top_k": _numbers,
  "top_p": _numbers,
  "min_p": _numbers,
  "n": st.integers(-1, 6),
  "best_of": st.integers(1, 3),
  "echo": st.booleans(),
  "logprobs": st.integers(-1, 21) | st.booleans(),
  "top_logprobs": st.integers(-1, 21),
  "stop": _text | st.lists(_text, max_size=5),
  "seed": st.integers(),
  "presence_penalty": _numbers,
  "frequency_penalty": _numbers,
  "logit_bias": st.dictionaries(st.integers(-1, 260).map(str) | _text, _numbers, max_size=3),
  "stream": st.booleans(),
  "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
  "ignore_eos": st.booleans(),
  "session": _text,
  "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}, {}]),
  "name": _text,
}
_WRITES = ("/v1/completions", "/v1/chat/completions")
_PATHS = (*_WRITES, *_WRITES, "/tokenize", "/detokenize", "/v1/sessions", "/v1/models", "/x")


@st.composite
def _bodies(draw):
  """Mostly fields that there are, with values of their kind."""
  needed = {name: _FIELDS[name] for name in ("prompt", "messages", "tokens")}
  rest = {name: values for name, values in _FIELDS.items() if name not in needed}
  chosen = draw(st.sets(st.sampled_from(sorted(rest)), max_size=6))
  body = draw(st.fixed_dictionaries(needed | {name: rest[name] for name in chosen}))
  if draw(st.integers(0, 3)) == 0:
    body |= draw(st.dictionaries(st.sampled_from(sorted(_FIELDS)) | _text, _json, max_size=2))
  return body


_contents = _bodies().map(lambda body: json.dumps(body).encode())
_requests = st.tuples(
  st.sampled_from(_PATHS),
  _contents | _contents | _contents | st.binary(max_size=50) | st.just(b"[" * 3000),
  st.sampled_from(["application/json"] * 9 + ["text/plain"]),
)


def _check(answer: httpx.Response) -> None:
  assert answer.status_code == 200 or answer.status_code in KINDS, answer.text
  assert answer.status_code != 500, answer.text
  if answer.status_code != 200:
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
  elif answer.headers["content-type"].startswith("text/event-stream"):
    *events, last, end = answer.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    assert all("error" not in json.loads(event.removeprefix("data: ")) for event in events)
  else:
    answer.json()


def _fuzz(examples: int) -> None:
  service = tiny_service(limits=_LIMITS)
  app = make_app(service)

  @settings(
    max_examples=examples,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
  )
  @given(st.lists(_requests, min_size=1, max_size=4))
  def ask_all(requests):
    async def ask():
      transport = httpx.ASGITransport(app)
      async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as asks:
        return await asyncio.gather(
          *(
            asks.post(path, content=content, headers={"content-type": kind})
            for path, content, kind in requests
          )
        )

    for answer in asyncio.run(ask()):
      _check(answer)

  ask_all()
  assert call(service, "GET", "/health").is_success
  assert service.scheduler.status().free == 4
  stop(service)


def test_any_request_has_an_answer():
  _fuzz(200)


@pytest.mark.slow
def test_any_request_has_an_answer_for_long():
  _fuzz(2000)
