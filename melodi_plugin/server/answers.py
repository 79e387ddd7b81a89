"""Texts of the scheduler's thread, in the event loop of those who wait for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.texts import Event, Finished, Prompt, Text
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends


@runtime_checkable
class Schedules(Protocol):
  """What writes texts: a `Scheduler`."""

  def submit(self, texts: Sequence[Text]) -> None:
    """Takes all of them or none; Refused if there is no room, or no more is written."""
    ...

  def cancel(self, texts: Sequence[Text]) -> None:
    """Nothing is told of them any more, and their slots are free at the next turn."""
    ...


class Wanted(NamedTuple):
  """One text that is asked for; see `Text`."""

  prompt: Prompt
  settings: SamplingSettings
  ends: Ends
  owner: str
  scored: bool = False
  keep: bool = False


@contextlib.asynccontextmanager
async def answers(
  scheduler: Schedules, wanted: Sequence[Wanted]
) -> AsyncIterator[AsyncIterator[tuple[int, Event]]]:
  """Submits texts; whoever leaves the block before they are finished cancels them.

  Yields:
    The events of all texts as they come, each with the index of its text, until all are finished.
    The first Refused is raised.

  Raises:
    Refused: if they are not taken.
  """
  loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Event]]()

  def listener(index: int) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
      # The loop may be closed when the server stops at once.
      with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(events.put_nowait, (index, event))

    return listen

  texts = [
    Text(own.prompt, own.settings, own.ends, own.owner, listener(i), own.scored, own.keep)
    for i, own in enumerate(wanted)
  ]

  async def all_events() -> AsyncIterator[tuple[int, Event]]:
    left = len(texts)
    while left:
      index, event = await events.get()
      if isinstance(event, Refused):
        raise event
      left -= isinstance(event, Finished)
      yield index, event

  scheduler.submit(texts)
  try:
    yield all_events()
  finally:
    scheduler.cancel(texts)
