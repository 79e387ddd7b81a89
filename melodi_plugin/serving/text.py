"""Tokens become text while they come: only what later tokens cannot change, and no stop string."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

_BROKEN = "\ufffd"
_CHARACTER = 3  # tokens, at most, of a character that is not whole yet
_PATIENCE = 16  # tokens that may wait for the end of a character; more of them are broken text


@runtime_checkable
class Decodes(Protocol):
  """What a stream needs of a tokenizer; `data.tokenizer.Tokenizer` is one."""

  def is_text(self, token_id: int) -> bool:
    """Whether a token has a text; special ones have none."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`; broken UTF-8 becomes U+FFFD."""
    ...


class TextStream:
  """The text of tokens that come one by one.

  All that `add` and `end` return is, joined, what `decode` makes of all ids after `after`, up to
  the stop string that is whole first (the longest, if several are).  A special token, EOS as well,
  is no text.  One exception: where a Hugging Face tokenizer falls back to bytes, one broken byte
  spoils all bytes beside it; characters that were whole before it came stay.

  Attributes:
    stopped: whether a stop string was found; all later tokens have no text.
  """

  def __init__(self, tokenizer: Decodes, stop: Sequence[str] = (), *, after: Sequence[int] = ()):
    """Starts behind the ids `after`, a prompt: a word that goes on there keeps its space.

    Raises:
      ValueError: for an empty stop string.
    """
    self._characters = _Characters(tokenizer)
    self._stops = _Stops(stop)
    for token_id in after[-_PATIENCE:]:
      self._characters.add(token_id)

  @property
  def stopped(self) -> bool:  # noqa: D102, an attribute to those outside
    return self._stops.found

  def add(self, token_id: int) -> str:
    """The text that is certain now and was not before."""
    return "" if self.stopped else self._stops.add(self._characters.add(token_id))

  def end(self) -> str:
    """What was held back, when no token follows."""
    return "" if self.stopped else self._stops.add(self._characters.end()) + self._stops.end()


class _Characters:
  """Whole characters of tokens.

  A tokenizer decodes tokens by those before them: a space at the begin of a text is dropped, bytes
  are joined.  So the newest tokens are decoded together with some whose text was given out: the
  anchor, which ends with a whole character and is not empty, unless nothing was given out yet.
  """

  def __init__(self, tokenizer: Decodes):
    self._tokenizer = tokenizer
    self._ids: list[int] = []
    self._anchor = 0  # how many of the ids
    self._given = 0  # characters of their text

  def add(self, token_id: int) -> str:
    if not self._tokenizer.is_text(token_id):
      return ""
    self._ids.append(token_id)
    text = self._tokenizer.decode(self._ids)
    waiting = _broken_end(text)
    new = text[self._given : len(text) - waiting]
    self._given = max(self._given, len(text) - waiting)
    if not waiting:
      self._move_anchor()
    elif len(self._ids) - self._anchor > _PATIENCE:
      new += self._give_up(text)
    return new

  def end(self) -> str:
    return self._tokenizer.decode(self._ids)[self._given :] if self._ids else ""

  def _move_anchor(self) -> None:
    recent = self._ids[self._anchor :]
    text = self._tokenizer.decode(recent)
    if text:  # a space alone may have none, and would not show whether the next has one
      self._ids, self._anchor, self._given = recent, len(recent), len(text)

  def _give_up(self, text: str) -> str:
    """Gives out broken bytes, but for those that may still become a character."""
    self._ids = self._ids[: self._anchor] + self._ids[-_CHARACTER:]
    shorter = self._tokenizer.decode(self._ids)
    waiting = min(_broken_end(text), _broken_end(shorter))
    new = text[self._given : len(text) - waiting]
    self._given = len(shorter) - waiting
    return new


def _broken_end(text: str) -> int:
  """Characters at the end that may be bytes of a character that is not whole yet."""
  return len(text) - len(text.rstrip(_BROKEN))


class _Stops:
  """Text up to the first stop string; the longest begin of one at the end is held back."""

  def __init__(self, stop: Iterable[str]):
    self._stop = tuple(stop)
    if "" in self._stop:
      raise ValueError("A stop string is empty and would stop at once; leave it out.")
    self._held = ""
    self.found = False

  def add(self, text: str) -> str:
    text = self._held + text
    places = [(text.find(stop), len(stop)) for stop in self._stop]
    ends = [(begin + length, begin) for begin, length in places if begin >= 0]
    if ends:
      self.found, self._held = True, ""
      return text[: min(ends)[1]]
    held = max((_overlap(text, stop) for stop in self._stop), default=0)
    certain = len(text) - held
    self._held = text[certain:]
    return text[:certain]

  def end(self) -> str:
    held, self._held = self._held, ""
    return held


def _overlap(text: str, stop: str) -> int:
  """The length of the longest end of `text` that `stop` begins with, and is not the whole of it."""
  longest = min(len(text), len(stop) - 1)
  return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
