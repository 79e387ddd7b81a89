"""A service of a model that is none, and requests to it without a network."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from melodi_plugin.data.chat import Message
from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.errors import KINDS
from melodi_plugin.server.metrics import Metrics
from melodi_plugin.server.scheduler import Scheduler
from melodi_plugin.server.service import Service
from melodi_plugin.serving.snapshots import Snapshots
from melodi_plugin.testing.slots import END, ByteTokenizer, FakeEngine


class RoleChat:
  """Every message in a line, behind the first letter of its role."""

  extends = True
  end_ids = (END,)

  def __call__(self, messages: Sequence[Message]) -> list[int]:
    """See `Chat`."""
    lines = [f"{m['role'][0]}:{m['content']}\n" for m in messages]
    if not all(m["role"] in ("system", "user", "assistant") for m in messages):
      raise ValueError("The chat template knows no such role; use another.")
    return list(("".join(lines) + "a:").encode())

  def after_answer(self, messages: Sequence[Message], last: int | None = None) -> list[int]:
    """See `Chat`."""
    return [*([] if last == END else [END]), *b"\n", *self(messages)]


def check_error(response: httpx.Response, status: int, param: str | None = None) -> str:
  """The error has the one form; returns its sentence."""
  assert response.status_code == status, response.text
  error = response.json()["error"]
  assert set(error) == {"message", "type", "param", "code"}
  assert error["type"] == KINDS[status]
  assert error["param"] == param, error
  assert error["message"].endswith(".")
  assert response.headers["x-request-id"]
  return error["message"]


def tiny_service(engine: FakeEngine | None = None, **more: Any) -> Service:
  """Ready, with a byte tokenizer over a `FakeEngine`; its scheduler is to be stopped."""
  engine, tokenizer, metrics = engine or FakeEngine(), ByteTokenizer(), Metrics()
  snapshots = Snapshots(2**20)
  scheduler = Scheduler(engine, tokenizer, snapshots, metrics=metrics)
  scheduler.start()
  service = Service(
    name="tiny",
    tokenizer=tokenizer,
    chat=RoleChat(),
    scheduler=scheduler,
    metrics=metrics,
    window=engine.window,
    row_bytes=engine.row_bytes,
    ready=True,
    **more,
  )
  metrics.watch(scheduler, snapshots, service.store)
  return service


def stop(service: Service) -> None:
  """Ends the scheduler's thread; every text has to be finished or given up by now."""
  scheduler: Any = service.scheduler
  assert scheduler.drain(5.0), scheduler.status()


def client(app: Any) -> httpx.AsyncClient:
  """Asks an application in this process."""
  return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


def call(service: Service, method: str, path: str, *, app: Any = None, **more: Any):
  """One request, and its answer."""

  async def ask() -> httpx.Response:
    async with client(app or make_app(service)) as asks:
      return await asks.request(method, path, **more)

  return asyncio.run(ask())


async def ask_by_hand(
  app: Any,
  body: Any,
  send: Callable[[Any], Awaitable[None]],
  leaves: Callable[[], Awaitable[Any]] | None = None,
) -> None:
  """A request for completions, of a client that takes what comes as it likes.

  Args:
    app: an ASGI application.
    body: of the request; None for a client that leaves before it is sent.
    send: is given every part of the answer.
    leaves: returns when the client goes away; it stays by default.
  """
  parts = [] if body is None else [json.dumps(body).encode()]

  async def receive() -> Any:
    if parts:
      return {"type": "http.request", "body": parts.pop(), "more_body": False}
    await (leaves or asyncio.Event().wait)()
    return {"type": "http.disconnect"}

  headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
  scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
  scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "asgi": {}}
  await asyncio.wait_for(app(scope, receive, send), 10)
