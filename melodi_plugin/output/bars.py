"""Progress of reading, on standard error: how far, how fast, and how long it will take."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def tokens_bar(
  description: str, total: int, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
  """For a known number of tokens; the function that it gives is told how many were done."""
  amount = TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens, ETA")
  columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
  with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
    task = bar.add_task(description, total=total)
    yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def text_bar(description: str, total: int) -> Iterator[Callable[[float, int], None]]:
  """For a known number of bytes; the function is told how many bytes and tokens were done."""
  rate = TextColumn("{task.fields[rate]:,.0f} tokens/s, ETA")
  columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), rate)
  with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
    task, began, tokens = bar.add_task(description, total=total, rate=0.0), time.monotonic(), 0

    def advance(size: float, count: int) -> None:
      nonlocal tokens
      tokens += count
      bar.update(task, advance=size, rate=tokens / max(time.monotonic() - began, 1e-9))

    yield advance


@contextlib.contextmanager
def asking(place: str) -> Iterator[None]:
  """Says that a server is asked for `place`, which takes a minute where there is no network.

  The library of gs:// logs every attempt, which is no help: the error it raises says it all.
  """
  logger = logging.getLogger("gcsfs")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    with Console(stderr=True).status(f"Asking for {place}"):
      yield
  finally:
    logger.setLevel(level)
