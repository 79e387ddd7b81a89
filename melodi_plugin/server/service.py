"""What every route needs: one model that is served, and what a request may take of it."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from melodi_plugin.data.chat import Message
from melodi_plugin.server.answers import Schedules
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.metrics import Metrics
from melodi_plugin.server.states.store import Store
from melodi_plugin.serving.text import Decodes


@runtime_checkable
class Tokenizes(Decodes, Protocol):
  """What routes need of a tokenizer; `data.tokenizer.Tokenizer` is one."""

  vocab_size: int

  @property
  def eos_ids(self) -> tuple[int, ...]:
    """What ends a text."""
    ...

  def encode(self, text: str) -> list[int]:
    """Ids of `text` alone."""
    ...

  def prompt(self, text: str) -> np.ndarray:
    """Ids of a text that is to go on."""
    ...

  def shown(self, token_id: int) -> str:
    """How a token is shown, one that is no text too."""
    ...


@runtime_checkable
class Renders(Protocol):
  """What routes need of a chat template; `data.chat.Chat` is one."""

  extends: bool
  end_ids: tuple[int, ...]

  def __call__(self, messages: Sequence[Message]) -> list[int]:
    """See `Chat`."""
    ...

  def after_answer(self, messages: Sequence[Message], last: int | None = None) -> list[int]:
    """See `Chat`."""
    ...


@dataclasses.dataclass(frozen=True)
class ServeLimits:
  """What one request may take.

  Attributes:
    max_body_bytes: of its body.
    max_prompt_tokens: of each of its prompts.
    max_tokens: that it may have written, for each text.
    max_choices: texts for each prompt.
    max_texts: of all its prompts; more than may wait would never be written.
  """

  max_body_bytes: int = 64 * 2**20
  max_prompt_tokens: int = 4_000_000
  max_tokens: int = 32_768
  max_choices: int = 16
  max_texts: int = 256


@dataclasses.dataclass(frozen=True)
class Access:
  """Who may ask.

  Attributes:
    keys: of which a request must name one; none are needed if there are none.
    hosts: names under which the server is reached, beside those of this machine's loopback.
  """

  keys: Sequence[str] = dataclasses.field(default=(), repr=False)
  hosts: Sequence[str] = ()


@dataclasses.dataclass
class Service:
  """A model, served.

  Attributes:
    name: the model's, in requests and answers.
    tokenizer: makes text of tokens; its calls run in threads.
    chat: renders messages; None if the model has no chat template.
    scheduler: writes texts.
    metrics: what is counted.
    window: tokens of one.
    row_bytes: of one text's state on the device.
    limits: of a request.
    access: who may ask.
    store: what is kept on disk; None if nothing is.
    created: when the model was loaded, in seconds since 1970.
    ready: whether all is compiled.
    draining: whether nothing new is answered.
  """

  name: str
  tokenizer: Tokenizes
  chat: Renders | None
  scheduler: Schedules
  metrics: Metrics
  window: int
  row_bytes: int
  limits: ServeLimits = ServeLimits()
  access: Access = Access()
  store: Store | None = None
  created: int = 0
  ready: bool = False
  draining: bool = False

  def check_open(self) -> None:
    """Raises Refused while nothing new is answered."""
    if self.draining:
      raise Refused(503, "The server is stopping; ask again when it is back.", retry_after=30)
    if not self.ready:
      raise Refused(503, "The server is not ready yet; ask again soon.", retry_after=5)

  def check_model(self, name: str | None) -> None:
    """Raises Refused for another model's name."""
    if name is not None and name != self.name:
      raise Refused(
        404,
        f"The model {name[:64]!r} is not served here; ask for {self.name!r}, or leave model out.",
        param="model",
        code="model_not_found",
      )
