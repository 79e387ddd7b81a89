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

# Checks of types draw from `random` in the scheduler's thread, while a request is made up in ours.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
_LIMITS = ServeLimits(max_prompt_tokens=50, max_tokens=20, max_choices=5, max_body_bytes=4000)
_json = st.recursive(
  st.none() | st.booleans() | st.integers(-3, 300) | st.integers() | st.floats() | st.text(),
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
  max_leaves=6,
)
_text = st.text(min_size=1, max_size=20)
_ids = st.lists(st.integers(0, 258), min_size=1, max_size=9)
_messages = st.fixed_dictionaries(
  {"role": st.sampled_from(["user", "assistant", "system"]), "content": _text}
)
_share = st.floats(0, 1)
_penalty = st.floats(-2, 2)
_RIGHT = {
  "model": st.sampled_from(["tiny", None]),
  "max_tokens": st.integers(1, 20),
  "max_completion_tokens": st.integers(1, 20) | st.none(),
  "temperature": st.floats(0, 3),
  "top_k": st.integers(0, 300),
  "top_p": _share,
  "min_p": _share,
  "n": st.integers(1, 5),
  "echo": st.booleans(),
  "logprobs": st.sampled_from([None, 0, 1]),
  "stop": _text | st.lists(_text, max_size=4),
  "seed": st.integers(-(2**63), 2**63 - 1),
  "presence_penalty": _penalty,
  "frequency_penalty": _penalty,
  "logit_bias": st.dictionaries(st.integers(0, 258).map(str), st.floats(-100, 100), max_size=3),
  "stream": st.booleans(),
  "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
  "ignore_eos": st.booleans(),
  "response_format": st.just({"type": "text"}),
  "user": _text,
}
_wrong = st.integers(-2, 300) | st.floats() | st.text(max_size=3) | _json
_NAMES = (*_RIGHT, "prompt", "messages", "tokens", "best_of", "top_logprobs", "session")
_WRITES = ("/v1/completions", "/v1/chat/completions")
_PATHS = (*_WRITES, *_WRITES, "/tokenize", "/detokenize", "/v1/sessions", "/v1/models", "/x")


@st.composite
def _bodies(draw):
  """Half of them right, the others with some fields of any kind."""
  chosen = draw(st.sets(st.sampled_from(sorted(_RIGHT)), max_size=7))
  body = draw(
    st.fixed_dictionaries(
      {
        "prompt": _text | _ids | st.lists(_text, min_size=1, max_size=3) | st.just([[1], [2]]),
        "messages": st.lists(_messages, min_size=1, max_size=4),
        "tokens": _ids,
        **{name: _RIGHT[name] for name in chosen},
      }
    )
  )
  if draw(st.booleans()):
    body |= draw(st.dictionaries(st.sampled_from(_NAMES) | _text, _wrong, min_size=1, max_size=2))
  return body


_DEEP = st.just(b"[" * 3000)
_contents = _bodies().map(lambda body: json.dumps(body).encode())
_requests = st.tuples(
  st.sampled_from(_PATHS),
  st.integers(0, 9).flatmap(lambda n: _contents if n else st.binary(max_size=50) | _DEEP),
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
  @given(st.lists(_requests, min_size=1, max_size=2))
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
