"""What clients of a server wait for, over loopback: the first token, every token, all tokens.

The server is `melodi serve` in a process of its own; prompts are random tokens, so no two begin
alike unless they are to.
"""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx
import numpy as np

from melodi_plugin.bench.waits import First, Gaps, Rate

_SECONDS = 900.0  # until a server answers
_ANSWERS = re.compile(r"answers at (http://\S+)/v1: ")
_SHORT = 32  # tokens of a prompt that is not to be measured
_TAIL = 16  # tokens behind a prefix that was read before


class Prompts:
  """Random token ids of a vocabulary, other ones at every call."""

  def __init__(self, vocabulary: int):
    self._chance, self._vocabulary = np.random.default_rng(0), vocabulary

  def __call__(self, tokens: int) -> list[int]:
    """So many."""
    return self._chance.integers(3, self._vocabulary, tokens).tolist()


@contextlib.contextmanager
def running_server(words: Sequence[str], slots: int) -> Iterator[str]:
  """`melodi serve` with these words and so many slots; yields its address.

  Raises:
    ValueError: with what it said last, if it does not answer.
  """
  command = [sys.executable, "-m", "melodi_plugin", "serve", *words]
  command += [f"melodi_slots={slots}", "melodi_serve_port=0"]
  # Appended to: the server shares the place in it, which reading moves.
  with tempfile.TemporaryFile("a+", encoding="utf-8") as log:
    process = subprocess.Popen(command, stdout=log, stderr=log)

    def said() -> str:
      log.seek(0)
      return log.read()

    try:
      yield address(process, said)
    finally:
      process.terminate()
      process.wait()


def address(process: subprocess.Popen, said: Callable[[], str], seconds: float = _SECONDS) -> str:
  """Waits until a server says where it answers.

  Args:
    process: the server.
    said: all that it has written so far.
    seconds: after which nobody waits any more.

  Raises:
    ValueError: with what it said last, if it ends or takes too long.
  """
  end = time.monotonic() + seconds
  while not (found := _ANSWERS.search(said())):
    if process.poll() is not None or time.monotonic() > end:
      last = said().strip().splitlines()[-1:] or ["nothing"]
      raise ValueError(f"melodi serve has not started; it said last: {last[0]}")
    time.sleep(0.1)
  return found[1]


async def rate(url: str, slots: int, tokens: int, repeats: int, prompts: Prompts) -> Rate:
  """Every slot writes so many tokens behind a short prompt."""
  async with _client(url) as client:
    await _write_all(client, [prompts(_SHORT) for _ in range(slots)], 4)  # warms up
    found = []
    for _ in range(repeats):
      began = time.monotonic()
      await _write_all(client, [prompts(_SHORT) for _ in range(slots)], tokens)
      found.append(slots * tokens / (time.monotonic() - began))
  return Rate(slots, found)


async def first_token(url: str, prefix: int, repeats: int, prompts: Prompts) -> First:
  """Prompts of `prefix` tokens that are new, and again with another end."""
  cold, warm = [], []
  async with _client(url) as client:
    for _ in range(repeats):
      shared = prompts(prefix)
      for found, prompt in ((cold, shared), (warm, [*shared, *prompts(_TAIL)])):
        began = time.monotonic()
        async for _ in _tokens(client, prompt, 1):
          found.append(time.monotonic() - began)
          break
  return First(cold, warm)


async def gaps(url: str, tokens: int, long: int, prompts: Prompts) -> Gaps:
  """One client writes while nobody else asks, then while a prompt of `long` tokens is read."""
  async with _client(url) as client:
    alone = [gap async for gap in _gaps(client, prompts(_SHORT), tokens)]
    beside: list[float] = []
    reading = asyncio.create_task(_write_all(client, [prompts(long)], 1))
    while not reading.done():
      async for gap in _gaps(client, prompts(_SHORT), tokens):
        if reading.done():
          break
        beside.append(gap)
    await reading
  return Gaps(alone, beside)


def _client(url: str) -> httpx.AsyncClient:
  key = os.environ.get("MELODI_API_KEY", "")
  headers = {"Authorization": f"Bearer {key}"} if key else {}
  return httpx.AsyncClient(base_url=url, headers=headers, timeout=None)


async def _write_all(client: httpx.AsyncClient, prompts: list[list[int]], tokens: int) -> None:
  async def one(prompt: list[int]) -> None:
    response = await client.post("/v1/completions", json=_request(prompt, tokens))
    response.raise_for_status()

  await asyncio.gather(*map(one, prompts))


async def _gaps(client: httpx.AsyncClient, prompt: list[int], tokens: int) -> AsyncIterator[float]:
  last = None
  async for now in _tokens(client, prompt, tokens):
    if last is not None:
      yield now - last
    last = now


async def _tokens(
  client: httpx.AsyncClient, prompt: list[int], tokens: int
) -> AsyncIterator[float]:
  """When every token came."""
  request = _request(prompt, tokens) | {"stream": True}
  async with client.stream("POST", "/v1/completions", json=request) as response:
    response.raise_for_status()
    async for line in response.aiter_lines():
      if line.startswith("data: {"):
        yield time.monotonic()


def _request(prompt: list[int], tokens: int) -> dict[str, Any]:
  """Draws, as most clients do, and goes on to the end."""
  return {"prompt": prompt, "max_tokens": tokens, "temperature": 1, "ignore_eos": True}
