"""How probable tokens were, as OpenAI's completions and chat completions tell it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from openai.types.chat import ChatCompletionTokenLogprob
from openai.types.chat.chat_completion_token_logprob import TopLogprob
from openai.types.completion_choice import Logprobs

from melodi_plugin.server.service import Tokenizes
from melodi_plugin.server.texts import PromptScores
from melodi_plugin.serving.engine import Drawn
from melodi_plugin.serving.text import TextStream


class Scored(NamedTuple):
  """One token; None for all but its id if nothing comes before it."""

  id: int
  logprob: float | None = None
  tops: tuple[tuple[int, float], ...] = ()  # ids, the most probable first


class CompletionLogprobs(Logprobs):
  """With nulls where nothing comes before a token, as OpenAI sends them."""

  token_logprobs: list[float | None] | None = None  # pyright: ignore
  top_logprobs: list[dict[str, float] | None] | None = None  # pyright: ignore


def of_drawn(drawn: Drawn, top: int) -> Scored:
  """A token that was written, with so many of the most probable."""
  return Scored(drawn.token, float(drawn.logprob), _tops(drawn.top_ids, drawn.top_logprobs, top))


def of_prompt(ids: Sequence[int], scores: PromptScores, top: int) -> list[Scored]:
  """The tokens of a prompt, the last of those that `scores` are of."""
  first = len(scores.logprobs) - len(ids)  # -1 if nothing comes before them
  return [Scored(i) for i in ids[: max(-first, 0)]] + [
    Scored(
      int(i),
      float(scores.logprobs[at]),
      _tops(scores.top_ids[at], scores.top_logprobs[at], top),
    )
    for at, i in enumerate(ids[max(-first, 0) :], max(first, 0))
  ]


class CompletionTokens:
  """The tokens of one text, as completions tell them, in pieces.

  A token begins in the text where all tokens before it end; a stop string is cut from the text
  only, so those of its tokens begin behind its end.
  """

  def __init__(self, tokenizer: Tokenizes, after: Sequence[int]):
    """Begins behind the ids `after`, whose text does not count."""
    self._tokenizer = tokenizer
    self._stream, self._place = TextStream(tokenizer, after=after), 0

  def tell(self, tokens: Iterable[Scored]) -> CompletionLogprobs:
    """The next tokens."""
    tokens, offsets = list(tokens), []
    for token in tokens:
      offsets.append(self._place)
      self._place += len(self._stream.add(token.id))
    return CompletionLogprobs(
      text_offset=offsets,
      token_logprobs=[token.logprob for token in tokens],
      tokens=[self._tokenizer.shown(token.id) for token in tokens],
      top_logprobs=[self._tops(token) for token in tokens],
    )

  def _tops(self, token: Scored) -> dict[str, float] | None:
    """By their texts; where several have the same, those after the first go by their ids."""
    if token.logprob is None:
      return None
    told: dict[str, float] = {}
    for id, logprob in {**dict(token.tops), token.id: token.logprob}.items():
      shown = self._tokenizer.shown(id)
      told[f"token_id:{id}" if shown in told else shown] = logprob
    return told


def of_chat(tokenizer: Tokenizes, token: Scored) -> ChatCompletionTokenLogprob:
  """A token, as chat completions tell it."""
  tops = [
    TopLogprob(token=tokenizer.shown(id), bytes=_bytes(tokenizer, id), logprob=logprob)
    for id, logprob in token.tops
  ]
  return ChatCompletionTokenLogprob(
    token=tokenizer.shown(token.id),
    bytes=_bytes(tokenizer, token.id),
    logprob=token.logprob or 0.0,
    top_logprobs=tops,
  )


def _tops(ids: np.ndarray, logprobs: np.ndarray, top: int) -> tuple[tuple[int, float], ...]:
  return tuple(zip(ids[:top].tolist(), logprobs[:top].tolist(), strict=True))


def _bytes(tokenizer: Tokenizes, id: int) -> list[int] | None:
  """Of its text; None for a token that is none, or part of a character."""
  shown = tokenizer.shown(id)
  return list(shown.encode()) if tokenizer.is_text(id) and "\ufffd" not in shown else None
