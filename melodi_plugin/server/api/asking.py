"""What the endpoints that write text have in common: how it is drawn, where it ends, how often."""

import abc
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, field_validator
from sse_starlette import ServerSentEvent

from melodi_plugin.server.answers import Wanted
from melodi_plugin.server.api.bodies import Body, Items, at_most
from melodi_plugin.server.api.generating import DONE, Choice, Generation, error_event, event_of
from melodi_plugin.server.conversations import Conversation, conversation
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Service
from melodi_plugin.server.texts import Prompt
from melodi_plugin.serving.sampling_settings import MAX_BIASES, SamplingSettings
from melodi_plugin.serving.writing import Ends

_STOPS = 4
_STOP_CHARACTERS = 500  # all of them are compared at every token
_SEEDS = 2**32  # of which the lowest bits count
_STRIDE = 0x9E3779B1  # odd, so that no two choices have the same seed


class StreamOptions(Body):
  """Of a stream."""

  include_usage: bool | None = None


class Asking(Body):
  """Fields that all of them know; see `SamplingSettings` for those without bounds here."""

  model: str | None = None
  temperature: float | None = None
  top_k: int | None = None
  top_p: float | None = None
  min_p: float | None = None
  presence_penalty: float | None = None
  frequency_penalty: float | None = None
  logit_bias: Annotated[dict[str, float], at_most(MAX_BIASES)] | None = None
  seed: int | None = None
  n: int | None = Field(None, ge=1)
  stop: str | Items[Annotated[str, Field(max_length=_STOP_CHARACTERS)]] | None = None
  ignore_eos: bool | None = None
  stream: bool | None = None
  stream_options: StreamOptions | None = None
  user: str | None = None
  session: str | None = None
  memory: str | None = None

  @field_validator("stop")
  @classmethod
  def _few_and_not_empty(cls, stop: str | list[str] | None) -> str | list[str] | None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > _STOPS or "" in stops or any(len(s) > _STOP_CHARACTERS for s in stops):
      raise ValueError(f"it should be at most {_STOPS} texts of 1 to {_STOP_CHARACTERS} characters")
    return stop

  @property
  def choices(self) -> int:
    """Texts for each prompt."""
    return self.n or 1

  def refuse(self, names: Sequence[str]) -> None:
    """Raises Refused if one of these is given, which would be more than text."""
    for name in names:
      if getattr(self, name):
        raise Refused(
          400, f"{name} is refused: answers are text and nothing else; leave it out.", param=name
        )

  @property
  def with_usage(self) -> bool:
    """Whether a stream ends with what it took."""
    return bool(self.stream_options and self.stream_options.include_usage)


def settings_of(body: Asking, service: Service) -> SamplingSettings:
  """How tokens are drawn; raises Refused for a value out of bounds."""
  given = {name: getattr(body, name, None) for name in SamplingSettings.model_fields}
  try:
    settings = SamplingSettings(**{n: value for n, value in given.items() if value is not None})
  except ValueError as error:
    sentence = str(error)
    param = next((name for name in given if sentence.startswith(name)), None)
    raise Refused(400, sentence, param=param) from None
  if settings.logit_bias and max(settings.logit_bias) >= service.tokenizer.vocab_size:
    _refuse_id(max(settings.logit_bias), service, "logit_bias")
  return settings


def ends_of(
  body: Asking, service: Service, tokens: int | None, ids: Sequence[int], param: str
) -> Ends:
  """Where texts end.

  Args:
    body: of the request.
    service: sets how much may be written.
    tokens: that the request asks for; as many as it may if it does not say.
    ids: tokens that end a text, unless the request ignores them.
    param: the field that says how many.

  Raises:
    Refused: for more than the service writes.
  """
  most = service.limits.max_tokens
  if tokens is not None and tokens > most:
    raise Refused(400, f"{param}={tokens} is refused: it should be at most {most}.", param=param)
  stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
  return Ends(most if tokens is None else tokens, tuple(stop), () if body.ignore_eos else (*ids,))


@contextlib.asynccontextmanager
async def conversation_of(
  body: Asking, service: Service, owner: str, prompts: int
) -> AsyncIterator[Conversation]:
  """What the texts of a request go on from: its session, its memory or nothing.

  Raises:
    Refused: if it cannot be, if it is too many texts, or a session would be several at once.
  """
  limits, texts = service.limits, prompts * body.choices
  if body.choices > limits.max_choices:
    raise Refused(
      400, f"n={body.choices} is refused: it should be at most {limits.max_choices}.", param="n"
    )
  if texts > limits.max_texts:  # before any of them is tokenized
    raise Refused(
      413, f"{texts} texts are asked for at once, and {limits.max_texts} may be; ask for fewer."
    )
  if body.session is not None and texts > 1:
    raise Refused(
      400, "session is refused: it goes on with one text, not with several.", param="session"
    )
  async with conversation(
    service.store, owner, "session", session=body.session, memory=body.memory
  ) as own:
    yield own


def text_ids(text: str, service: Service, own: Conversation) -> Sequence[int] | np.ndarray:
  """The ids of a text; what goes on has its first special token already."""
  begins = service.tokenizer.prompt if own.state is None else service.tokenizer.encode
  return begins(text)


def checked_ids(ids: Any, service: Service, param: str) -> np.ndarray:
  """The ids of a prompt; raises Refused if they are too many, or not in the vocabulary."""
  most, array = service.limits.max_prompt_tokens, np.asarray(ids, np.int64)
  if len(array) > most:
    raise Refused(
      400,
      f"The prompt has {len(array)} tokens, and {most} are the most; send less at once.",
      param=param,
      code="context_length_exceeded",
    )
  if len(array):
    for id in (array.min(), array.max()):
      if not 0 <= id < service.tokenizer.vocab_size:
        _refuse_id(int(id), service, param)
  return array.astype(np.int32)


def choices_of(
  body: Asking,
  service: Service,
  owner: str,
  prompts: Sequence[tuple[Prompt, int]],
  ends: Ends,
  *,
  scored: bool = False,
  keep: bool = False,
) -> list[Choice]:
  """The texts of a request: n for each prompt, of which is known how much the request gave.

  The n texts of a prompt have different seeds; the first has the one that was given.
  """
  choices, settings = [], settings_of(body, service)
  for prompt, own in prompts:
    if body.seed is None:  # a prompt may stand there twice, to be answered twice
      settings = settings_of(body, service)
    for number in range(body.choices):
      drawn = settings.model_copy(update={"seed": seed_of(settings.seed, number)})
      wanted = Wanted(prompt, drawn, ends, owner, scored, keep)
      choices.append(Choice(len(choices), wanted, own))
  return choices


def seed_of(seed: int, choice: int) -> int:
  """That of the n-th text of a prompt."""
  return (seed + choice * _STRIDE) % _SEEDS if choice else seed


def _refuse_id(id: int, service: Service, param: str) -> None:
  size = service.tokenizer.vocab_size
  raise Refused(400, f"{param} has the token id {id}, and there are {size} tokens.", param=param)


class Completing(abc.ABC):
  """What completions and chat completions have in common; see `Telling`."""

  def __init__(
    self, body: Asking, service: Service, texts: Generation, conversation: Conversation, kind: str
  ):
    """`kind` is what the id begins with."""
    self.generation = texts
    self._service, self._conversation, self._usage_too = service, conversation, body.with_usage
    self._said = {
      "id": f"{kind}-{uuid.uuid4().hex}",
      "created": int(time.time()),
      "model": service.name,
    }

  @abc.abstractmethod
  def _piece(self, choices: list[Any], **more: Any) -> BaseModel:
    """A part of a stream."""

  def _event(self, choice: Any) -> ServerSentEvent:
    """A part of a stream that says something of one text."""
    return event_of(self._piece([choice], **({"usage": None} if self._usage_too else {})))

  async def commit(self) -> None:
    """Makes a session's text durable; nothing is kept of others."""
    own, finished = self._conversation, self.generation.choices[0].finished
    if own.session is not None and finished is not None:
      await own.keep(finished)

  def last(self) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    if self._usage_too:
      yield event_of(self._piece([], usage=self.generation.usage))
    yield DONE

  def failed(self, refused: Refused) -> Iterable[ServerSentEvent]:
    """See `Telling`."""
    yield error_event(refused)
