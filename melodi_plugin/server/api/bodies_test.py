"""Bodies that would take much more than their bytes."""

import asyncio
import json

import pytest
from fastapi import Request
from pydantic import ValidationError

from melodi_plugin.server.api.bodies import read_as
from melodi_plugin.server.api.chat import ChatBody
from melodi_plugin.server.api.completions import CompletionBody, prompts_in
from melodi_plugin.server.api.responses import ResponseBody
from melodi_plugin.server.api.tokens import DetokenizeBody
from melodi_plugin.server.service import ServeLimits
from melodi_plugin.testing.http import call, check_error

MANY = 1000


@pytest.mark.parametrize(
  ("kind", "body"),
  [
    (ChatBody, {"messages": [1] * MANY}),
    (ChatBody, {"messages": [{"role": "user", "content": [{"type": "text"}] * MANY}]}),
    (ChatBody, {"messages": [{"role": "user", "content": ""}], "modalities": ["audio"] * MANY}),
    (ChatBody, {"messages": [{"role": "user", "content": ""}], "stop": [1] * MANY}),
    (CompletionBody, {"prompt": "a", "logit_bias": {str(n): "x" for n in range(MANY)}}),
    (ResponseBody, {"input": [1] * MANY}),
    (ResponseBody, {"input": "a", "metadata": {str(n): 1 for n in range(MANY)}}),
    (DetokenizeBody, {"tokens": [-1] * MANY}),
  ],
)
def test_not_every_wrong_item_is_noted(kind, body):
  with pytest.raises(ValidationError) as error:
    kind.model_validate_json(json.dumps(body))
  assert error.value.error_count() <= 3  # an item of a union is wrong in each of its ways


def test_more_texts_than_may_wait_are_refused_before_any_is_tokenized(service, monkeypatch):
  service.limits = ServeLimits(max_texts=5)
  monkeypatch.setattr(service.tokenizer, "prompt", None)
  body = {"prompt": ["a", "b", "c"], "n": 2}
  assert "6 texts" in check_error(call(service, "POST", "/v1/completions", json=body), 413)


def test_fields_that_nobody_knows_are_told_and_not_held():
  async def receive():
    return {"type": "http.request", "body": b'{"prompt": "a", "more": [1, 2]}', "more_body": False}

  scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
  request = Request(scope, receive)
  body = asyncio.run(read_as(CompletionBody)(request))
  assert request.state.ignored == ("more",) and not body.model_extra


@pytest.mark.parametrize("prompt", [[97, 98], [[97], [98]], "a", ["a", "b"]])
def test_prompts_are_found_in_a_body_once_where_it_is_parsed(prompt):
  """Not again in the event loop, which millions of ids would hold up for seconds."""
  assert CompletionBody(prompt=prompt).prompt == prompts_in(prompt)


def test_metadata_has_a_bound(service):
  for metadata in ({"a": "x" * 513}, {"x" * 65: "a"}, {str(n): "" for n in range(17)}):
    body = {"input": "a", "metadata": metadata}
    check_error(call(service, "POST", "/v1/responses", json=body), 400, "metadata")
