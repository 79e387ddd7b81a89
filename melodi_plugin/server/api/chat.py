"""POST /v1/chat/completions: the next message of a conversation."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Request
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice as WholeChoice
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs
from pydantic import Field
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from melodi_plugin.data.chat import Message
from melodi_plugin.server.api.asking import (
  Asking,
  Completing,
  checked_ids,
  choices_of,
  conversation_of,
  ends_of,
)
from melodi_plugin.server.api.bodies import Body, Items, read_as
from melodi_plugin.server.api.generating import (
  Choice,
  Generation,
  generation,
  respond,
)
from melodi_plugin.server.api.guards import Owner, Served
from melodi_plugin.server.api.logprobs import of_chat, of_drawn
from melodi_plugin.server.conversations import Conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Renders, Service
from melodi_plugin.server.texts import Event
from melodi_plugin.serving.writing import Written

_UNKNOWN = ("tools", "functions", "audio", "prediction", "web_search_options")
router = APIRouter()


class Part(Body):
  """A part of a message; only text is read."""

  type: Literal["text", "input_text", "output_text"]
  text: str


class MessageBody(Body):
  """One message."""

  role: Annotated[str, Field(min_length=1)]
  content: str | Items[Part]

  @property
  def plain(self) -> dict[str, str]:
    """For a chat template, which knows no developers."""
    content = self.content
    if not isinstance(content, str):
      content = "".join(part.text for part in content)
    return {"role": "system" if self.role == "developer" else self.role, "content": content}


class Format(Body):
  """How an answer is written."""

  type: Literal["text"]


class ChatBody(Asking):
  """See OpenAI's chat completions; and `Asking`."""

  messages: Annotated[Items[MessageBody], Field(min_length=1)]
  max_completion_tokens: int | None = Field(None, ge=1)
  max_tokens: int | None = Field(None, ge=1)
  logprobs: bool | None = None
  top_logprobs: int | None = Field(None, ge=0, le=20)
  response_format: Format | None = None
  modalities: Items[Literal["text"]] | None = None
  tools: Any = None
  functions: Any = None
  audio: Any = None
  prediction: Any = None
  web_search_options: Any = None

  def check(self) -> None:
    """Raises Refused for what is not done here."""
    self.refuse(_UNKNOWN)
    if self.top_logprobs and not self.logprobs:
      raise Refused(
        400, "top_logprobs is refused: it needs logprobs=true; set that.", param="top_logprobs"
      )


def chat_of(service: Service) -> Renders:
  """The model's; raises Refused if it has none."""
  if service.chat is None:
    raise Refused(
      400,
      "messages is refused: this model has no chat template; set chat_template when the server "
      "starts, or ask /v1/completions.",
      param="messages",
    )
  return service.chat


def message_ids(
  service: Service, messages: Sequence[Message], own: Conversation, param: str = "messages"
) -> np.ndarray:
  """The ids of new messages; raises Refused if the template cannot render them there."""
  chat, state = chat_of(service), own.state
  try:
    if state is None or state.entry.kind == "memory":
      ids = chat(messages)
    else:
      ids = chat.after_answer(messages, state.pending[-1] if state.pending else None)
  except ValueError as error:
    raise Refused(400, str(error), param=param) from None
  return checked_ids(ids, service, param)


@router.post("/v1/chat/completions")
async def chat_completions(
  request: Request,
  body: Annotated[ChatBody, Depends(read_as(ChatBody))],
  service: Served,
  owner: Owner,
) -> Response:
  """Writes a message, or several to choose from."""
  service.check_model(body.model)
  body.check()
  return await respond(request, _opened(body, service, owner), stream=bool(body.stream))


@contextlib.asynccontextmanager
async def _opened(body: ChatBody, service: Service, owner: str) -> AsyncIterator["_ChatCompletion"]:
  param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
  ends = ends_of(body, service, getattr(body, param), chat_of(service).end_ids, param)
  messages = [message.plain for message in body.messages]
  async with conversation_of(body, service, owner, 1) as own:
    ids = await anyio.to_thread.run_sync(message_ids, service, messages, own)
    prompts, keep = [(own.prompt(ids), len(ids))], body.session is not None
    choices = choices_of(body, service, owner, prompts, ends, keep=keep)
    async with generation(service, choices) as texts:
      yield _ChatCompletion(body, service, texts, own)


class _ChatCompletion(Completing):
  """See `Telling`."""

  def __init__(
    self,
    body: ChatBody,
    service: Service,
    texts: Generation,
    conversation: Conversation,
  ):
    super().__init__(body, service, texts, conversation, "chatcmpl")
    self._body = body

  def whole(self) -> ChatCompletion:
    """See `Telling`."""
    choices = [
      WholeChoice(
        index=choice.index,
        message=ChatCompletionMessage(role="assistant", content=choice.text, refusal=None),
        finish_reason="stop" if choice.finish == "stop" else "length",
        logprobs=self._logprobs(ChoiceLogprobs, choice.written),
      )
      for choice in self.generation.choices
    ]
    return ChatCompletion(
      choices=choices, object="chat.completion", usage=self.generation.usage, **self._said
    )

  def first(self) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    for choice in self.generation.choices:
      yield self._chunk(choice.index, ChoiceDelta(role="assistant", content=""))

  def piece(self, choice: Choice, event: Event) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    if isinstance(event, Written) and (event.text or self._body.logprobs):
      logprobs = self._logprobs(ChunkLogprobs, [event])
      yield self._chunk(choice.index, ChoiceDelta(content=event.text), logprobs=logprobs)
    if isinstance(event, Written) and event.finish:
      yield self._chunk(choice.index, ChoiceDelta(), event.finish)

  def _chunk(
    self,
    index: int,
    delta: ChoiceDelta,
    finish: Any = None,
    logprobs: ChunkLogprobs | None = None,
  ) -> ServerSentEvent:
    choice = ChunkChoice(index=index, delta=delta, finish_reason=finish, logprobs=logprobs)
    return self._event(choice)

  def _piece(self, choices: list[Any], **more: Any) -> ChatCompletionChunk:
    return ChatCompletionChunk(
      choices=choices, object="chat.completion.chunk", **self._said, **more
    )

  def _logprobs(self, kind: Any, written: Sequence[Written]) -> Any:
    if not self._body.logprobs:
      return None
    tokenizer, top = self._service.tokenizer, self._body.top_logprobs or 0
    tokens = [of_chat(tokenizer, of_drawn(event.drawn, top)) for event in written]
    return kind(content=tokens, refusal=None)
