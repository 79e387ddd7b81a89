"""Texts that wait for a slot: owners take turns, and what an owner asked for first comes first."""

import collections
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.texts import Prompt, Text

_RETRY_SECONDS = 60  # at most; who is told to stay away for longer finds an empty queue


class Limits(NamedTuple):
  """How much may wait, and for how long.

  Attributes:
    queue_texts: that wait for a slot.
    queue_tokens: of their prompts; a prompt of several texts counts once.
    queue_seconds: that a text may wait before anything is read for it.
    request_seconds: from the moment it was submitted to its end.
  """

  queue_texts: int = 256
  queue_tokens: int = 16_000_000
  queue_seconds: float = 600
  request_seconds: float = 3600


class Queue:
  """No threads and no clocks: whoever calls says what time it is, in seconds.

  Attributes:
    tokens: of the prompts that wait.
  """

  def __init__(self, limits: Limits):
    self._limits = limits
    self.tokens = 0
    self._since: dict[Text, float] = {}  # when each came, the oldest first
    self._owners: dict[str, dict[Text, None]] = {}  # the one whose turn is next comes first
    self._prompts = collections.Counter[Prompt]()

  def __len__(self) -> int:
    return len(self._since)

  def add(self, texts: Sequence[Text], now: float) -> None:
    """Takes all or none.

    Raises:
      Refused: 413 if they would never fit, 429 if they do not fit now.
    """
    prompts = {text.prompt for text in texts}
    tokens = sum(len(prompt.ids) for prompt in prompts)
    texts_most, tokens_most = self._limits.queue_texts, self._limits.queue_tokens
    if len(texts) > texts_most or tokens > tokens_most:
      raise Refused(
        413,
        f"{len(texts)} texts with {tokens} prompt tokens are asked for at once, but only "
        f"{texts_most} texts with {tokens_most} tokens may wait; ask for fewer.",
      )
    tokens = sum(len(prompt.ids) for prompt in prompts if prompt not in self._prompts)
    if len(self) + len(texts) > texts_most or self.tokens + tokens > tokens_most:
      raise Refused(
        429,
        f"{len(self)} texts with {self.tokens} prompt tokens wait already, and there is no room "
        "for more; ask again later.",
        retry_after=self._retry_after(now),
      )
    for text in texts:
      self._since[text] = now
      self._owners.setdefault(text.owner, {})[text] = None
      self._prompts[text.prompt] += 1
    self.tokens += tokens

  def take(self, read_now: Collection[Prompt]) -> tuple[Text, float] | None:
    """The next text, and when it came.

    Args:
      read_now: prompts that slots are reading; a text that can go on from such a row waits until
        it is there, and those behind it go first.
    """
    for owner, texts in self._owners.items():
      for text in texts:
        prompt = text.prompt
        if text.scored or prompt.row is not None or prompt not in read_now:
          since = self._since[text]
          self.remove(text)
          if owner in self._owners:
            self._owners[owner] = self._owners.pop(owner)
          return text, since
    return None

  def remove(self, text: Text) -> None:
    """It waits no more; nothing happens if it did not."""
    if self._since.pop(text, None) is None:
      return
    own, prompt = self._owners[text.owner], text.prompt
    del own[text]
    if not own:
      del self._owners[text.owner]
    self._prompts[prompt] -= 1
    if not self._prompts[prompt]:
      del self._prompts[prompt]
      self.tokens -= len(prompt.ids)

  def remove_late(self, now: float, read_now: Collection[Prompt]) -> list[Text]:
    """Removes what has waited for too long.

    A text whose prompt was read with its siblings', or is now, has been begun.
    """
    begun = [text.prompt.row is not None or text.prompt in read_now for text in self._since]
    limits = self._limits
    late = [
      text
      for (text, since), has_begun in zip(self._since.items(), begun, strict=True)
      if now - since > (limits.request_seconds if has_begun else limits.queue_seconds)
    ]
    for text in late:
      self.remove(text)
    return late

  def remove_all(self) -> list[Text]:
    """Removes everything."""
    texts = list(self._since)
    for text in texts:
      self.remove(text)
    return texts

  def wait_for_row(self, prompt: Prompt) -> bool:
    """Whether there are texts that would go on from the row of a prompt."""
    return any(text.prompt is prompt and not text.scored for text in self._since)

  def _retry_after(self, now: float) -> int:
    """As long as the oldest text has waited: so long it takes to get through, at least."""
    oldest = next(iter(self._since.values()))
    return min(max(1, math.ceil(now - oldest)), _RETRY_SECONDS)
