"""POST /v1/completions: a text that goes on."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any, Literal

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Request
from openai.types import Completion, CompletionChoice
from pydantic import Field, field_validator
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from melodi_plugin.server.api.asking import (
  Asking,
  Completing,
  checked_ids,
  choices_of,
  conversation_of,
  ends_of,
  text_ids,
)
from melodi_plugin.server.api.bodies import read_as
from melodi_plugin.server.api.generating import (
  Choice,
  Generation,
  generation,
  respond,
)
from melodi_plugin.server.api.guards import Owner, Served
from melodi_plugin.server.api.logprobs import (
  CompletionLogprobs,
  CompletionTokens,
  Scored,
  of_drawn,
  of_prompt,
)
from melodi_plugin.server.conversations import Conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Service
from melodi_plugin.server.texts import Event, PromptRead
from melodi_plugin.serving.writing import Written

_DEFAULT_TOKENS = 16
_AFTER = 16  # tokens of a prompt, by which its continuation knows whether a space is due
router = APIRouter()


class CompletionPiece(CompletionChoice):
  """With null for its end, as OpenAI sends it in a stream."""

  finish_reason: Literal["stop", "length"] | None  # pyright: ignore


class CompletionBody(Asking):
  """See OpenAI's completions; and `Asking`."""

  prompt: Any  # one or several, once it is checked
  max_tokens: int | None = Field(None, ge=0)
  best_of: int | None = None
  echo: bool | None = None
  logprobs: int | None = Field(None, ge=0, le=20)
  suffix: str | None = None

  @field_validator("prompt", mode="before")
  @classmethod
  def _texts_or_ids(cls, prompt: Any) -> Any:
    if not (prompts := prompts_in(prompt)):
      raise ValueError(
        "it should be a text, a list of texts, a list of token ids, or a list of such lists"
      )
    return prompts

  def check(self) -> None:
    """Raises Refused for what is not done here."""
    if self.suffix:
      raise Refused(
        400, "suffix is refused: a text is only written on; leave it out.", param="suffix"
      )
    if self.best_of is not None and self.best_of != self.choices:
      raise Refused(400, "best_of is refused: it should be n; leave it out.", param="best_of")
    if self.max_tokens == 0 and not self.echo:
      raise Refused(
        400, "max_tokens=0 is refused: nothing would be told; set echo=true.", param="max_tokens"
      )


def prompts_in(prompt: Any) -> list[str | list[int]]:
  """The prompts of a field; empty if it holds none, or something else."""
  if isinstance(prompt, str):
    return [prompt]
  if not isinstance(prompt, list):
    return []
  if _are_ids(prompt):
    return [prompt]
  ok = all(isinstance(one, str) for one in prompt) or all(
    isinstance(one, list) and _are_ids(one) for one in prompt
  )
  return prompt if ok else []


def _are_ids(prompt: list[Any]) -> bool:
  # Nothing larger is an id, nor can it be made one to be refused later.
  return bool(prompt) and all(type(i) is int and abs(i) < 2**62 for i in prompt)


@router.post("/v1/completions")
async def completions(
  request: Request,
  body: Annotated[CompletionBody, Depends(read_as(CompletionBody))],
  service: Served,
  owner: Owner,
) -> Response:
  """Writes a text, or several."""
  service.check_model(body.model)
  body.check()
  return await respond(request, _opened(body, service, owner), stream=bool(body.stream))


@contextlib.asynccontextmanager
async def _opened(
  body: CompletionBody, service: Service, owner: str
) -> AsyncIterator["_Completion"]:
  given = body.prompt
  ends = ends_of(
    body,
    service,
    min(_DEFAULT_TOKENS, service.limits.max_tokens) if body.max_tokens is None else body.max_tokens,
    service.tokenizer.eos_ids,
    "max_tokens",
  )
  async with conversation_of(body, service, owner, len(given)) as own:
    ids = await anyio.to_thread.run_sync(lambda: [_ids(one, service, own) for one in given])
    prompts = [(own.prompt(one), len(one)) for one in ids]
    scored = bool(body.echo) and body.logprobs is not None
    keep = body.session is not None
    choices = choices_of(body, service, owner, prompts, ends, scored=scored, keep=keep)
    async with generation(service, choices) as texts:
      yield _Completion(body, service, texts, given, own)


def _ids(prompt: str | list[int], service: Service, own: Conversation) -> np.ndarray:
  if isinstance(prompt, str):
    prompt = list(text_ids(prompt, service, own))
  if not len(prompt) and not (own.state and own.state.pending):
    raise Refused(400, "prompt is refused: it has no tokens; write some text.", param="prompt")
  return checked_ids(prompt, service, "prompt")


class _Completion(Completing):
  """See `Telling`."""

  def __init__(
    self,
    body: CompletionBody,
    service: Service,
    texts: Generation,
    given: Sequence[str | list[int]],
    conversation: Conversation,
  ):
    super().__init__(body, service, texts, conversation, "cmpl")
    self._body, self._given = body, given
    self._tokens = [CompletionTokens(service.tokenizer, self._before(c)) for c in texts.choices]

  def _before(self, choice: Choice) -> list[int]:
    """The last tokens before the text that is told."""
    ids = choice.wanted.prompt.ids
    before = ids[: len(ids) - choice.own] if self._body.echo else ids
    return [int(i) for i in before[-_AFTER:]]

  def whole(self) -> Completion:
    """See `Telling`."""
    told = []
    for choice in self.generation.choices:
      events = [choice.read, *choice.written] if self._body.echo else choice.written
      text = self._echo(choice) + choice.text
      told.append(self._choice(choice, text, events, choice.finish))
    return self._piece(told, usage=self.generation.usage)

  def first(self) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    return ()

  def piece(self, choice: Choice, event: Event) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    if isinstance(event, Written):
      text, finish = event.text, event.finish or None
    elif isinstance(event, PromptRead) and self._body.echo:
      text, finish = self._echo(choice), None if choice.wanted.ends.max_tokens else choice.finish
    else:
      return
    if text or finish or self._body.logprobs is not None:
      yield self._event(self._choice(choice, text, [event], finish))

  def _piece(self, choices: list[Any], **more: Any) -> Completion:
    return Completion(choices=choices, object="text_completion", **self._said, **more)

  def _choice(
    self, choice: Choice, text: str, events: Sequence[Event | None], finish: Any
  ) -> CompletionChoice:
    return CompletionPiece(
      index=choice.index, text=text, finish_reason=finish, logprobs=self._logprobs(choice, events)
    )

  def _echo(self, choice: Choice) -> str:
    if not self._body.echo:
      return ""
    given = self._given[choice.index // self._body.choices]
    return given if isinstance(given, str) else self._service.tokenizer.decode(given)

  def _logprobs(self, choice: Choice, events: Sequence[Event | None]) -> CompletionLogprobs | None:
    top = self._body.logprobs
    if top is None:
      return None
    tokens: list[Scored] = []
    for event in events:
      if isinstance(event, Written):
        tokens.append(of_drawn(event.drawn, top))
      elif isinstance(event, PromptRead) and event.scores is not None:
        ids = choice.wanted.prompt.ids
        tokens += of_prompt(ids[len(ids) - choice.own :].tolist(), event.scores, top)
    return self._tokens[choice.index].tell(tokens)
