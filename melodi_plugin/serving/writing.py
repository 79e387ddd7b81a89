"""A text that goes on: tokens drawn one by one, and the text that is certain by then."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.serving.engine import Drawn
from melodi_plugin.serving.text import TextStream


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


def write(
  engine: Generates,
  slot: int,
  pending: int,
  ends: Ends,
  tokenizer: Tokenizer,
  after: Sequence[int] = (),
) -> Iterator[Written]:
  """Writes on from a token that was not read yet.

  The last token that is written has not been read either: it is what is pending then.

  Args:
    engine: has read all that comes before.
    slot: where.
    pending: the last token so far.
    ends: where to stop.
    tokenizer: makes text of tokens.
    after: the last tokens of what comes before, for the space of the first word.
  """
  stream = TextStream(tokenizer, ends.stop, after=after)
  for count in range(1, ends.max_tokens + 1):
    drawn = engine.generate({slot: pending})[slot]
    pending = drawn.token
    text = "" if pending in ends.ids else stream.add(pending)
    finish = "length" if count == ends.max_tokens else ""
    if stream.stopped or pending in ends.ids:
      finish = "stop"
    if finish:
      text += stream.end()
    yield Written(drawn, text, finish)
    if finish:
      return
