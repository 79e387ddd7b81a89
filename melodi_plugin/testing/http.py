"""A service of a model that is none, and requests to it without a network."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.metrics import Metrics
from melodi_plugin.server.service import Service
from melodi_plugin.server.texts import Finished, PromptRead, PromptScores, Text
from melodi_plugin.serving.writing import Writer
from melodi_plugin.testing.slots import ByteTokenizer, FakeEngine


class AtOnce:
  """Writes every text before `submit` returns, in one slot."""

  def __init__(self, engine: FakeEngine, tokenizer: ByteTokenizer):
    self._engine, self._tokenizer = engine, tokenizer
    self.full = False
    self.cancelled: list[Text] = []

  def submit(self, texts: Sequence[Text]) -> None:
    """See `Schedules.submit`."""
    if self.full:
      raise Refused(429, "The queue is full; ask again later.", retry_after=3)
    for text in texts:
      self._write(text)

  def cancel(self, texts: Sequence[Text]) -> None:
    """See `Schedules.cancel`."""
    self.cancelled += texts

  def _write(self, text: Text) -> None:
    ids = text.prompt.ids
    if text.prompt.start is None:
      self._engine.begin(0)
    else:
      self._engine.insert(0, text.prompt.start)
    text.listen(PromptRead(0, self._read(text)))
    writer, finish = Writer(self._tokenizer, text.ends, [int(i) for i in ids[-16:]]), ""
    self._engine.sample_with(0, text.settings)
    pending = int(ids[-1])
    while text.ends.max_tokens and not finish:
      drawn = self._engine.generate({0: pending})[0]
      if not drawn.finite:
        text.listen(Refused(500, "The model failed.", code="model_error"))
        return
      written = writer.add(drawn)
      pending, finish = drawn.token, written.finish
      text.listen(written)
    text.listen(Finished(self._engine.extract(0) if text.keep else None, (pending,)))

  def _read(self, text: Text) -> PromptScores | None:
    ids, most = text.prompt.ids, self._engine.programs.read_tokens
    pieces = [slice(at, at + most) for at in range(0, len(ids) - 1, most)]
    if not text.scored:
      for piece in pieces:
        self._engine.read({0: ids[:-1][piece]})
      return None
    scores = [
      (self._engine.score({0: ids[:-1][p]}, {0: ids[1:][p]}), len(ids[1:][p])) for p in pieces
    ]
    empty = PromptScores(np.zeros(0), np.zeros((0, 20), np.int32), np.zeros((0, 20)))
    parts = [
      PromptScores(s.logprobs[0, :n], s.top_ids[0, :n], s.top_logprobs[0, :n]) for s, n in scores
    ]
    return PromptScores(*map(np.concatenate, zip(*parts, strict=True))) if parts else empty


def tiny_service(**more: Any) -> Service:
  """Ready, with a byte tokenizer over a `FakeEngine`."""
  engine, tokenizer = FakeEngine(), ByteTokenizer()
  known: dict[str, Any] = dict(name="tiny", tokenizer=tokenizer, chat=None, ready=True)
  known |= dict(scheduler=AtOnce(engine, tokenizer), metrics=Metrics())
  return Service(**known | dict(window=engine.window, row_bytes=engine.row_bytes) | more)


def client(app: Any) -> httpx.AsyncClient:
  """Asks an application in this process."""
  return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


def call(service: Service, method: str, path: str, *, app: Any = None, **more: Any):
  """One request, and its answer."""

  async def ask() -> httpx.Response:
    async with client(app or make_app(service)) as asks:
      return await asks.request(method, path, **more)

  return asyncio.run(ask())
