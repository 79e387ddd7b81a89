"""Texts as their tokens, and back; what lm-eval's remote tokenizer asks for."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import JSONResponse, Response

from melodi_plugin.server.api.asking import checked_ids
from melodi_plugin.server.api.bodies import Body, Items, read_as
from melodi_plugin.server.api.guards import Served
from melodi_plugin.server.service import Service

router = APIRouter()


class TokenizeBody(Body):
  """A text."""

  model: str | None = None
  prompt: str
  add_special_tokens: bool | None = None


class DetokenizeBody(Body):
  """Tokens."""

  model: str | None = None
  tokens: Items[Annotated[int, Field(ge=0, lt=2**31)]]


@router.post("/tokenize")
async def tokenize(
  body: Annotated[TokenizeBody, Depends(read_as(TokenizeBody))], service: Served
) -> Response:
  """Its ids; with the special tokens that a prompt begins with, unless they are not wanted.

  A text that is nothing but what /tokenizer_info calls a token is that token: by this clients learn
  its id.
  """
  service.check_model(body.model)

  def ids() -> Response:
    special = body.add_special_tokens is not False
    begins = service.tokenizer.prompt if special else service.tokenizer.encode
    named = {service.tokenizer.shown(id): id for id in _ends_and_begins(service)}
    own = [named[body.prompt]] if body.prompt in named else list(begins(body.prompt))
    own = checked_ids(own, service, "prompt").tolist()
    most = service.limits.max_prompt_tokens
    return JSONResponse({"tokens": own, "count": len(own), "max_model_len": most})

  return await anyio.to_thread.run_sync(ids)


@router.post("/detokenize")
async def detokenize(
  body: Annotated[DetokenizeBody, Depends(read_as(DetokenizeBody))], service: Served
) -> Response:
  """Its text; special tokens have none."""
  service.check_model(body.model)

  def text() -> Response:
    ids = checked_ids(body.tokens, service, "tokens").tolist()
    return JSONResponse({"prompt": service.tokenizer.decode(ids)})

  return await anyio.to_thread.run_sync(text)


@router.get("/tokenizer_info")
async def tokenizer_info(service: Served) -> dict[str, Any]:
  """What ends a text, and begins it, as the tokenizer shows these tokens; null without them."""
  return await anyio.to_thread.run_sync(_info, service)


def _info(service: Service) -> dict[str, Any]:
  tokenizer, begins = service.tokenizer, service.tokenizer.prompt("")
  return {
    "eos_token": tokenizer.shown(tokenizer.eos_ids[0]) if tokenizer.eos_ids else None,
    "bos_token": tokenizer.shown(int(begins[0])) if len(begins) else None,
    "pad_token": None,
    "vocab_size": tokenizer.vocab_size,
  }


def _ends_and_begins(service: Service) -> list[int]:
  tokenizer = service.tokenizer
  return [*tokenizer.eos_ids[:1], *(int(id) for id in tokenizer.prompt("")[:1])]
