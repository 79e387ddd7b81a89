"""POST /v1/responses: an answer that others go on from, and what is kept of it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import Response

from melodi_plugin.server.api.asking import Asking, checked_ids, choices_of, ends_of, text_ids
from melodi_plugin.server.api.bodies import Body, Items, at_most, read_as
from melodi_plugin.server.api.chat import Format, MessageBody, message_ids
from melodi_plugin.server.api.generating import generation, respond
from melodi_plugin.server.api.guards import Owner, Served
from melodi_plugin.server.api.response_events import Responding
from melodi_plugin.server.conversations import Conversation, conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Service
from melodi_plugin.server.states.rules import not_found

_UNKNOWN = ("tools", "reasoning", "background", "include", "conversation", "prompt", "top_logprobs")
# Of metadata, as OpenAI has it: it is kept beside the state, where no budget counts its bytes.
_PAIRS = 16
_Name = Annotated[str, Field(max_length=64)]
_Value = Annotated[str, Field(max_length=512)]
router = APIRouter(prefix="/v1/responses")


class InputMessage(MessageBody):
  """One message, of the roles that responses know."""

  type: Literal["message"] = "message"
  role: Literal["user", "assistant", "system", "developer"]


class TextOptions(Body):
  """Of an answer."""

  format: Format | None = None


class ResponseBody(Asking):
  """See OpenAI's responses; and `Asking`, of which a session is not for responses."""

  input: str | Annotated[Items[InputMessage], Field(min_length=1)]
  instructions: str | None = None
  previous_response_id: str | None = None
  store: bool | None = None
  max_output_tokens: int | None = Field(None, ge=1)
  metadata: Annotated[dict[_Name, _Value], at_most(_PAIRS)] | None = None
  text: TextOptions | None = None
  truncation: Literal["disabled"] | None = None
  tools: Any = None
  reasoning: Any = None
  background: Any = None
  include: Any = None
  conversation: Any = None
  prompt: Any = None
  top_logprobs: Any = None

  def check(self, service: Service) -> None:
    """Raises Refused for what is not done here."""
    self.refuse(_UNKNOWN)
    if self.session is not None:
      raise Refused(
        400,
        "session is refused: responses go on from previous_response_id; leave it out.",
        param="session",
      )
    if self.choices > 1:
      raise Refused(400, "n is refused: a response is one text; leave it out.", param="n")
    if self.instructions is None:
      return
    if self.previous_response_id is not None:
      raise Refused(
        400,
        "instructions is refused: they would have to be read before what the previous response "
        "has read already; give them with the first response only.",
        param="instructions",
      )
    if service.chat is None:
      raise Refused(
        400,
        "instructions is refused: this model has no chat template; write them in the input.",
        param="instructions",
      )


@router.post("")
async def responses(
  request: Request,
  body: Annotated[ResponseBody, Depends(read_as(ResponseBody))],
  service: Served,
  owner: Owner,
) -> Response:
  """Writes an answer, and keeps what the next one goes on from."""
  service.check_model(body.model)
  body.check(service)
  return await respond(request, _opened(body, service, owner), stream=bool(body.stream))


@router.get("/{id}")
async def response(id: str, service: Served, owner: Owner) -> dict[str, Any]:
  """A response that was kept; Refused with 404 for another."""
  if service.store is None:
    raise not_found("response", id)
  return await anyio.to_thread.run_sync(service.store.body, owner, id)


@router.delete("/{id}")
async def delete(id: str, service: Served, owner: Owner) -> dict[str, Any]:
  """It is found no more; those that went on from it are."""
  if service.store is None:
    raise not_found("response", id)
  await anyio.to_thread.run_sync(service.store.delete, owner, id)
  return {"id": id, "object": "response", "deleted": True}


@contextlib.asynccontextmanager
async def _opened(body: ResponseBody, service: Service, owner: str) -> AsyncIterator[Responding]:
  end_ids = service.tokenizer.eos_ids if service.chat is None else service.chat.end_ids
  ends = ends_of(body, service, body.max_output_tokens, end_ids, "max_output_tokens")
  keep = body.store is not False and service.store is not None
  async with conversation(
    service.store,
    owner,
    "response",
    previous_response_id=body.previous_response_id,
    memory=body.memory,
  ) as own:
    ids = await anyio.to_thread.run_sync(_ids, body, service, own)
    choices = choices_of(body, service, owner, [(own.prompt(ids), len(ids))], ends, keep=keep)
    settings = choices[0].wanted.settings
    said = {
      "model": service.name,
      "instructions": body.instructions,
      "previous_response_id": body.previous_response_id,
      "max_output_tokens": body.max_output_tokens,
      "metadata": body.metadata or {},
      "store": keep,
      "temperature": settings.temperature,
      "text": {"format": {"type": "text"}},
      "top_p": settings.top_p,
      "truncation": "disabled",
    }
    async with generation(service, choices) as texts:
      yield Responding(texts, own, said)


def _ids(body: ResponseBody, service: Service, own: Conversation) -> np.ndarray:
  """What is read anew."""
  if service.chat is not None:
    before = [] if body.instructions is None else [_message("system", body.instructions)]
    new = (
      [_message("user", body.input)]
      if isinstance(body.input, str)
      else [message.plain for message in body.input]
    )
    return message_ids(service, before + new, own, "input")
  if not isinstance(body.input, str):
    raise Refused(
      400,
      "input is refused: this model has no chat template for messages; send a text.",
      param="input",
    )
  return checked_ids(text_ids(body.input, service, own), service, "input")


def _message(role: str, content: str) -> dict[str, str]:
  return {"role": role, "content": content}
