"""What the scheduler is asked to write, and what it tells of it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from melodi_plugin.server.errors import Refused
from melodi_plugin.serving.engine import Row
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends, Written


@dataclasses.dataclass(eq=False)
class Prompt:
  """What is read before texts are written; several texts may go on from one prompt.

  Attributes:
    ids: int32, at least one; what was pending at `start` comes first, and the last is pending.
    start: what was read before; None if nothing.
    start_id: names `start`, so that what is read behind it is found again; "" for none.
    row: the state after all of `ids` but the last, once a text with siblings has read them.
  """

  ids: np.ndarray
  start: Row | None = None
  start_id: str = ""
  row: Row | None = None


class PromptScores(NamedTuple):
  """What the model said of every token of a prompt but the first, in order."""

  logprobs: np.ndarray
  top_ids: np.ndarray  # [tokens, top]
  top_logprobs: np.ndarray


class PromptRead(NamedTuple):
  """The prompt is read, and writing begins."""

  cached_tokens: int  # of the prompt, that were not read again
  scores: PromptScores | None  # if they were asked for


class Finished(NamedTuple):
  """Nothing follows.

  Attributes:
    row: the state, if it is to be kept: after all tokens but `pending`.
    pending: the last token, which nothing has read.
  """

  row: Row | None
  pending: tuple[int, ...]


# PromptRead, then Written for every token, then Finished; or Refused at any moment, and no more.
Event = PromptRead | Written | Finished | Refused


@dataclasses.dataclass(eq=False)
class Text:
  """One text to be written, in one slot.

  Attributes:
    prompt: what comes before.
    settings: how tokens are drawn.
    ends: where it ends; with max_tokens=0 the prompt is only read.
    owner: whose it is: owners take turns, and find only their own prefixes.
    listen: is told every event, on the scheduler's thread; must return at once.
    scored: whether `PromptRead` has scores; then all of the prompt is read.
    keep: whether `Finished` has the row.
    cancelled: set by whoever wants no more of it; nothing is told after that.
  """

  prompt: Prompt
  settings: SamplingSettings
  ends: Ends
  owner: str
  listen: Callable[[Event], None]
  scored: bool = False
  keep: bool = False
  cancelled: bool = False
