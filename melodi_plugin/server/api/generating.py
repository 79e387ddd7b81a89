"""Texts written for one request: told whole or as a stream, and given up when nobody listens."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar, runtime_checkable

import anyio.to_thread
from fastapi import Request
from openai.types import CompletionUsage
from openai.types.completion_usage import PromptTokensDetails
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from melodi_plugin.server.answers import Wanted, answers
from melodi_plugin.server.api.guards import server_error
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Service
from melodi_plugin.server.texts import Event, Finished, Prompt, PromptRead
from melodi_plugin.serving.writing import Written

Result = TypeVar("Result")

_SEND_SECONDS = 60  # for which a client takes nothing, before what it asked for is given up
DONE = ServerSentEvent("[DONE]", sep="\n")  # the last event of OpenAI's older endpoints


class Gone(Exception):  # noqa: N818, nothing is wrong
  """Nobody waits for the answer any more."""


class Choice:
  """One text, as it comes.

  Attributes:
    index: of it in the answer.
    wanted: what was asked for.
    own: how many of the prompt's last tokens the request itself gave.
    read: what is known of the prompt; None until it is read.
    written: its tokens so far.
    finished: set at its end.
  """

  def __init__(self, index: int, wanted: Wanted, own: int):
    self.index, self.wanted, self.own = index, wanted, own
    self.read: PromptRead | None = None
    self.written: list[Written] = []
    self.finished: Finished | None = None

  @property
  def text(self) -> str:
    """So far."""
    return "".join(written.text for written in self.written)

  @property
  def finish(self) -> str:
    """Why it ended: 'stop' or 'length'; a text of no tokens has all that it may have."""
    return self.written[-1].finish if self.written else "length"

  def add(self, event: Event) -> None:
    """Takes in what the scheduler told."""
    if isinstance(event, PromptRead):
      self.read = event
    elif isinstance(event, Written):
      self.written.append(event)
    elif isinstance(event, Finished):
      self.finished = event


class Generation:
  """All texts of one request.

  Attributes:
    choices: one for each.
    events: of all, as they come; the choices know of them by then.
  """

  def __init__(self, choices: Sequence[Choice], events: AsyncIterator[Any]):
    self.choices, self.events = choices, self._taken_in(events)

  async def _taken_in(
    self, events: AsyncIterator[tuple[int, Event]]
  ) -> AsyncIterator[tuple[Choice, Event]]:
    async for index, event in events:
      self.choices[index].add(event)
      yield self.choices[index], event

  @property
  def usage(self) -> CompletionUsage:
    """So far; a prompt counts once, however many texts go on from it."""
    own: dict[Prompt, int] = {}
    cached: dict[Prompt, int] = {}
    for choice in self.choices:
      if choice.read is not None:
        prompt = choice.wanted.prompt
        pending = len(prompt.ids) - choice.own  # of what it goes on from, which comes first
        count = max(choice.read.cached_tokens - pending, 0)
        own[prompt] = choice.own
        # Texts after the first find the whole prompt read.
        cached[prompt] = min(count, cached.get(prompt, count))
    prompt, written = sum(own.values()), sum(len(choice.written) for choice in self.choices)
    return CompletionUsage(
      prompt_tokens=prompt,
      completion_tokens=written,
      total_tokens=prompt + written,
      prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(cached.values())),
    )


@contextlib.asynccontextmanager
async def generation(service: Service, choices: Sequence[Choice]) -> AsyncIterator[Generation]:
  """Submits texts; whoever leaves the block gives up those that are not finished.

  Raises:
    Refused: if they are not taken.
  """
  async with answers(service.scheduler, [choice.wanted for choice in choices]) as events:
    yield Generation(choices, events)


@runtime_checkable
class Telling(Protocol):
  """How an endpoint tells its answer: whole, or as a stream of all others in this order."""

  generation: Generation

  def whole(self) -> BaseModel:
    """All of it; called in a thread."""
    ...

  def first(self) -> Iterable[ServerSentEvent]:
    """Before any text."""
    ...

  def piece(self, choice: Choice, event: Event) -> Iterable[ServerSentEvent]:
    """What is new."""
    ...

  async def commit(self) -> None:
    """Makes durable what has to be, before the client knows that all is done."""
    ...

  def last(self) -> Iterable[ServerSentEvent]:
    """After all texts."""
    ...

  def failed(self, refused: Refused) -> Iterable[ServerSentEvent]:
    """In place of all that would follow."""
    ...


def event_of(model: BaseModel) -> ServerSentEvent:
  """An event without a name, as OpenAI's older endpoints have them."""
  return ServerSentEvent(json_of(model), sep="\n")


def error_event(refused: Refused) -> ServerSentEvent:
  """What went wrong, where the status was sent already."""
  return ServerSentEvent(json.dumps(refused.body), sep="\n")


def json_of(model: BaseModel) -> str:
  """What was set of a model of OpenAI; theirs do not know of all the nulls that they send."""
  return model.model_dump_json(exclude_unset=True, warnings="none")


async def respond(
  request: Request, opened: AbstractAsyncContextManager[Telling], *, stream: bool
) -> Response:
  """The answer of an endpoint.

  Args:
    request: whose client may go away.
    opened: entered once; its texts are given up when it is left.
    stream: whether to tell it as it comes.

  Raises:
    Refused: if there is none, and not a byte of it was sent.
    Gone: if nobody waits for it.
  """
  if stream:
    return Stream(opened)

  async def whole() -> str:
    async with opened as telling:
      async for _ in telling.generation.events:
        pass
      await telling.commit()
      return await anyio.to_thread.run_sync(lambda: json_of(telling.whole()))

  return Response(await unless_gone(request, whole()), media_type="application/json")


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
  """What `work` returns; it is cancelled, and Gone raised, once the client is gone."""
  running, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
  try:
    await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
      raise Gone
    return running.result()
  finally:
    for task in (running, gone):
      task.cancel()
    await asyncio.gather(running, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
  while (await request.receive())["type"] != "http.disconnect":
    pass


class Stream(EventSourceResponse):
  """Server-sent events; texts are submitted before the first byte, so that it can be an error."""

  def __init__(self, opened: AbstractAsyncContextManager[Telling]):
    super().__init__(_nothing(), sep="\n", send_timeout=_SEND_SECONDS)
    self._opened = opened

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends all of it, or gives up when the client is gone, or takes nothing any more."""
    async with self._opened as telling:
      self.body_iterator = _told(telling)
      with contextlib.suppress(SendTimeoutError):
        await super().__call__(scope, receive, send)


async def _nothing() -> AsyncIterator[ServerSentEvent]:
  for event in ():
    yield event


async def _told(telling: Telling) -> AsyncIterator[ServerSentEvent]:
  try:
    for event in telling.first():
      yield event
    async for choice, heard in telling.generation.events:
      if isinstance(heard, PromptRead):  # a prompt that is told may be long
        pieces = await anyio.to_thread.run_sync(
          lambda c, h: list(telling.piece(c, h)), choice, heard
        )
      else:
        pieces = telling.piece(choice, heard)
      for event in pieces:
        yield event
    await telling.commit()
    for event in telling.last():
      yield event
  except Exception as error:
    refused = error if isinstance(error, Refused) else server_error(error)
    for event in telling.failed(refused):
      yield event
