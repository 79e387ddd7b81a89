"""A text that goes on: tokens drawn one by one, and the text that is certain by then."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from melodi_plugin.serving.engine import Drawn
from melodi_plugin.serving.text import Decodes, TextStream


@runtime_checkable
class Generates(Protocol):
  """What writes: an `Engine`, or a stock decoder in its place."""

  def generate(self, pending: Mapping[int, int]) -> dict[int, Drawn]:
    """See `Engine.generate`."""
    ...


class Ends(NamedTuple):
  """Where a text ends."""

  max_tokens: int
  stop: tuple[str, ...] = ()
  ids: tuple[int, ...] = ()  # tokens that are no text


class Written(NamedTuple):
  """One token of a text."""

  drawn: Drawn
  text: str  # that is certain now and was not before
  finish: str  # 'stop' or 'length' at the last one, '' before


class NotFinite(ValueError):  # noqa: N818, the model is wrong, not the program
  """The logits of a text are not numbers."""


class Writer:
  """Makes text of tokens as they are drawn, and says where it ends."""

  def __init__(self, tokenizer: Decodes, ends: Ends, after: Sequence[int] = ()):
    """Begins a text.

    Args:
      tokenizer: makes text of tokens.
      ends: where to stop.
      after: the last tokens of what comes before, for the space of the first word.
    """
    self._stream = TextStream(tokenizer, ends.stop, after=after)
    self._ends, self._count = ends, 0

  def add(self, drawn: Drawn) -> Written:
    """The next token; raises NotFinite if it was drawn from logits that are none."""
    if not drawn.finite:
      raise NotFinite("the logits of the model are not finite, so it can write nothing.")
    self._count += 1
    ended = drawn.token in self._ends.ids
    text = "" if ended else self._stream.add(drawn.token)
    finish = "length" if self._count >= self._ends.max_tokens else ""
    if self._stream.stopped or ended:
      finish = "stop"
    if finish:
      text += self._stream.end()
    return Written(drawn, text, finish)


def write(
  engine: Generates,
  slot: int,
  pending: int,
  ends: Ends,
  tokenizer: Decodes,
  after: Sequence[int] = (),
) -> Iterator[Written]:
  """Writes on from a token that was not read yet; see `Writer`.

  The last token that is written has not been read either: it is what is pending then.

  Args:
    engine: has read all that comes before.
    slot: where.
    pending: the last token so far.
    ends: where to stop.
    tokenizer: makes text of tokens.
    after: the last tokens of what comes before.
  """
  writer, finish = Writer(tokenizer, ends, after), ""
  while not finish:
    written = writer.add(engine.generate({slot: pending})[slot])
    pending, finish = written.drawn.token, written.finish
    yield written
