"""Arrays of checkpoints that Orbax reads: what cannot be read is one sentence, and no more."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvloop

from melodi_plugin.errors import is_of_storage, is_of_the_moment


@contextlib.contextmanager
def reading_arrays(path: str) -> Iterator[None]:
  """What cannot be read of a checkpoint becomes a ValueError that says so in one sentence.

  Other errors stay what they are.  Orbax has plain `Exception`s around the errors of arrays.
  """
  try:
    with ending_reads():
      yield
  except Exception as error:
    wrapped = type(error) is Exception
    cause = error.__cause__ or error if wrapped else error
    unlisted = isinstance(cause, KeyError)  # an array that one of Orbax's lists lacks
    of_storage = unlisted or is_of_storage(cause)
    if not (wrapped or of_storage):
      raise
    advice = "mend that" if is_of_the_moment(cause) else "copy or write it again"
    said = f"a list of its arrays has no {cause}" if unlisted else str(cause)
    reason = said.partition("\n")[0].rstrip(".:")
    raise ValueError(
      f"{path} cannot be read: {reason}{f'; {advice}' if of_storage else ''}."
    ) from error


@contextlib.contextmanager
def ending_reads() -> Iterator[None]:
  """Event loops made meanwhile end their tasks before they close, and hear nothing after that.

  Orbax reads all arrays at once and closes its loops with the first error.  Reads that are open
  then would write tracebacks on standard error, each when its thread or Python comes to end it.
  """
  makers: list[Any] = [asyncio, uvloop]  # this one for a loop within a loop
  before = [module.new_event_loop for module in makers]
  for module in makers:
    module.new_event_loop = _EndingLoop
  try:
    yield
  finally:
    for module, made in zip(makers, before, strict=True):
      module.new_event_loop = made


class _EndingLoop(asyncio.SelectorEventLoop):
  def close(self) -> None:
    if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
      for task in tasks:
        task.cancel()
      self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    super().close()

  def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> Any:
    try:
      return super().call_soon_threadsafe(*args, **kwargs)
    except RuntimeError:
      if not self.is_closed():
        raise
