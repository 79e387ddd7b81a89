"""A response in the words of OpenAI's types: whole, and as the events of a stream."""

import itertools
import time
from collections.abc import Iterable
from typing import Any

from openai.types.responses import (
  Response,
  ResponseCompletedEvent,
  ResponseContentPartAddedEvent,
  ResponseContentPartDoneEvent,
  ResponseCreatedEvent,
  ResponseIncompleteEvent,
  ResponseInProgressEvent,
  ResponseOutputItemAddedEvent,
  ResponseOutputItemDoneEvent,
  ResponseOutputMessage,
  ResponseOutputText,
  ResponseTextDeltaEvent,
  ResponseTextDoneEvent,
  ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic import BaseModel
from sse_starlette import ServerSentEvent

from melodi_plugin.server.api.generating import Choice, Generation, json_of
from melodi_plugin.server.conversations import Conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.texts import Event
from melodi_plugin.serving.writing import Written


class ErrorEvent(BaseModel):
  """The end of a stream that failed: the fields of OpenAI's event, and the one form of errors."""

  type: str = "error"
  sequence_number: int
  code: str | None
  message: str
  param: str | None
  error: dict[str, str | None]


class Responding:
  """See `Telling`."""

  def __init__(self, texts: Generation, conversation: Conversation, said: dict[str, Any]):
    """Tells of the one text of `texts`.

    Args:
      texts: it is kept in `conversation` if its row is.
      conversation: that it goes on with.
      said: fields of the response that the request has settled.
    """
    self.generation = texts
    self._conversation, self._said = conversation, said
    self._created, self._numbers = int(time.time()), itertools.count()
    self._item = {"item_id": f"msg_{conversation.id.partition('_')[2]}", "output_index": 0}
    self._place = self._item | {"content_index": 0}

  def whole(self) -> Response:
    """See `Telling`."""
    choice = self.generation.choices[0]
    short = choice.finish == "length"
    return self._response(
      "incomplete" if short else "completed",
      output=[self._message("incomplete" if short else "completed", choice.text)],
      incomplete_details=IncompleteDetails(reason="max_output_tokens") if short else None,
      usage=self._usage(),
    )

  def first(self) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    yield self._event(ResponseCreatedEvent, response=self._response("in_progress"))
    yield self._event(ResponseInProgressEvent, response=self._response("in_progress"))
    message = self._message("in_progress")
    yield self._event(ResponseOutputItemAddedEvent, item=message, output_index=0)
    yield self._event(ResponseContentPartAddedEvent, part=_part(""), **self._place)

  def piece(self, choice: Choice, event: Event) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    if isinstance(event, Written) and event.text:
      yield self._event(ResponseTextDeltaEvent, delta=event.text, logprobs=[], **self._place)

  async def commit(self) -> None:
    """See `Telling`."""
    choice = self.generation.choices[0]
    if choice.wanted.keep and choice.finished is not None:
      body = self.whole().model_dump(mode="json", exclude_unset=True)
      await self._conversation.keep(choice.finished, body=body)

  def last(self) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    whole, text = self.whole(), self.generation.choices[0].text
    yield self._event(ResponseTextDoneEvent, text=text, logprobs=[], **self._place)
    yield self._event(ResponseContentPartDoneEvent, part=_part(text), **self._place)
    yield self._event(ResponseOutputItemDoneEvent, item=whole.output[0], output_index=0)
    kind = ResponseCompletedEvent if whole.status == "completed" else ResponseIncompleteEvent
    yield self._event(kind, response=whole)

  def failed(self, refused: Refused) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    error = refused.body["error"]
    own = {name: error[name] for name in ("code", "message", "param")}
    yield self._event(ErrorEvent, error=error, **own)

  def _event(self, kind: Any, **fields: Any) -> ServerSentEvent:
    (name,) = getattr(kind.model_fields["type"].annotation, "__args__", None) or ("error",)
    event = kind(type=name, sequence_number=next(self._numbers), **fields)
    return ServerSentEvent(json_of(event), event=name, sep="\n")

  def _response(self, status: Any, *, output: Any = (), **more: Any) -> Response:
    more = {"usage": None, "incomplete_details": None} | more | self._said
    return Response(
      id=self._conversation.id,
      object="response",
      created_at=self._created,
      status=status,
      output=list(output),
      error=None,
      parallel_tool_calls=False,
      tool_choice="none",
      tools=[],
      **more,
    )

  def _message(self, status: Any, text: str | None = None) -> ResponseOutputMessage:
    return ResponseOutputMessage(
      id=str(self._item["item_id"]),
      content=[] if text is None else [_part(text)],
      role="assistant",
      status=status,
      type="message",
    )

  def _usage(self) -> ResponseUsage:
    own = self.generation.usage
    cached = own.prompt_tokens_details.cached_tokens if own.prompt_tokens_details else 0
    return ResponseUsage(
      input_tokens=own.prompt_tokens,
      input_tokens_details=InputTokensDetails(cached_tokens=cached or 0, cache_write_tokens=0),
      output_tokens=own.completion_tokens,
      output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
      total_tokens=own.total_tokens,
    )


def _part(text: str) -> ResponseOutputText:
  return ResponseOutputText(text=text, annotations=[], type="output_text", logprobs=[])
