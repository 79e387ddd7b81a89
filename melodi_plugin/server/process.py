"""One process: it listens, loads its model, answers, and ends without losing what it has begun."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import override

import uvicorn
from fastapi import FastAPI

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Service

_LAST_BYTES = 5  # seconds, at least, for answers that are written but not kept or sent
_SWEEP_SECONDS = 3600  # what has expired goes also where nobody asks for anything
_log = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
  """A socket that takes connections already; raises OSError with the address."""
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family, backlog=2048)
  except OSError as error:
    reason = error.strerror or str(error)
    raise OSError(
      f"melodi_serve_host={host} melodi_serve_port={port} cannot be listened at ({reason}); choose "
      "another port or address, or stop what listens there."
    ) from error


def url_of(listening: socket.socket) -> str:
  """Where clients find it."""
  host, port = listening.getsockname()[:2]
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
  app: FastAPI,
  service: Service,
  load: Callable[[], None],
  listening: socket.socket,
  drain_seconds: float,
) -> bool:
  """Answers until SIGTERM or SIGINT; then finishes what runs, and takes nothing new.

  A second signal ends it at once.

  Args:
    app: of `service`.
    service: is ready when `load` returns.
    load: in a thread; until it is done, every answer is 503.
    listening: the socket.
    drain_seconds: for what runs.

  Returns:
    Whether all threads have ended; one that compiles or computes cannot be stopped.

  Raises:
    Exception: of `load`.
  """
  return asyncio.run(_run(app, service, load, listening, drain_seconds))


class _Server(uvicorn.Server):
  """Leaves signals to `run`: uvicorn would stop to listen, and clients would not know why."""

  @override
  @contextlib.contextmanager
  def capture_signals(self) -> Iterator[None]:
    yield


async def _run(
  app: FastAPI,
  service: Service,
  load: Callable[[], None],
  listening: socket.socket,
  drain_seconds: float,
) -> bool:
  server = _Server(
    uvicorn.Config(
      app,
      log_config=None,
      access_log=False,
      server_header=False,
      lifespan="off",
      timeout_graceful_shutdown=_LAST_BYTES,
    )
  )
  loop, ending = asyncio.get_running_loop(), asyncio.Event()

  def end() -> None:
    if ending.is_set():
      server.force_exit = server.should_exit = True
    ending.set()

  for number in (signal.SIGINT, signal.SIGTERM):
    loop.add_signal_handler(number, end)
  serving = loop.create_task(server.serve(sockets=[listening]))
  sweeping = loop.create_task(_sweep(service))
  loaded, ended = _in_thread(load), loop.create_task(ending.wait())
  try:
    await asyncio.wait((loaded, ended, serving), return_when=asyncio.FIRST_COMPLETED)
    if loaded.done():
      loaded.result()
      service.ready = True
      await asyncio.wait((ended, serving), return_when=asyncio.FIRST_COMPLETED)
    service.draining = True
    if service.ready:
      until = loop.time() + drain_seconds
      drained = _in_thread(lambda: service.scheduler.drain(drain_seconds))
      while not drained.done() and not server.force_exit:
        await asyncio.wait((drained,), timeout=0.1)
      # States of what was written last may be large, and the disk slow.
      left = round(until - loop.time())
      server.config.timeout_graceful_shutdown = max(_LAST_BYTES, left)
  finally:
    sweeping.cancel()
    service.draining = server.should_exit = True
    await serving
    if service.store is not None:
      service.store.close()
  return loaded.done() and not server.force_exit


async def _sweep(service: Service) -> None:
  while True:
    await asyncio.sleep(_SWEEP_SECONDS)
    if service.store is not None:
      try:
        await asyncio.to_thread(service.store.sweep)
      except Refused as refused:  # the disk; requests that need it are told, too
        _log.warning("What has expired could not be removed: %s", refused.message)


def _in_thread(function: Callable[[], object]) -> asyncio.Future[None]:
  """Runs it in a thread that does not keep the process from ending."""
  loop = asyncio.get_running_loop()
  future: asyncio.Future[None] = loop.create_future()

  def settle(error: BaseException | None) -> None:
    if not future.done():
      future.set_exception(error) if error else future.set_result(None)

  def work() -> None:
    try:
      function()
    except BaseException as error:  # told where the future is awaited
      own: BaseException | None = error
    else:
      own = None
    with contextlib.suppress(RuntimeError):  # the loop is closed where the process ends at once
      loop.call_soon_threadsafe(settle, own)

  threading.Thread(target=work, daemon=True).start()
  return future
