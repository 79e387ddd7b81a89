"""What is kept under names, as routes find, tell and send it."""

from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO

import anyio.to_thread
from fastapi import Depends
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from melodi_plugin.server.api.guards import Served
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.index import Named
from melodi_plugin.server.states.store import Store

BYTES = "application/octet-stream"
_CHUNK = 2**20  # bytes of a file that are sent at once


def _kept(service: Served) -> Store:
  if service.store is None:
    raise Refused(400, "This server keeps no states; start it with melodi_serve_folder.")
  return service.store


Kept = Annotated[Store, Depends(_kept)]  # Refused if nothing is kept


async def listed(store: Store, owner: str, kind: str) -> dict[str, Any]:
  """All of an owner's, by name."""
  all_named = await anyio.to_thread.run_sync(store.all_named, kind, owner)
  return {"object": "list", "data": [told(kind, named) for named in all_named]}


async def found(store: Store, owner: str, kind: str, name: str) -> dict[str, Any]:
  """One of them; Refused with 404 if there is none."""
  return told(kind, await anyio.to_thread.run_sync(store.named, kind, owner, name))


def told(kind: str, named: Named) -> dict[str, Any]:
  """A name, and the state that it points to."""
  state = named.state
  return {
    "object": kind,
    "name": named.name,
    "title": state.title,
    "tokens": state.tokens,
    "bytes": state.bytes,
    "created_at": int(named.created),
    "used_at": int(named.used),
  }


async def forgotten(store: Store, owner: str, kind: str, name: str) -> dict[str, Any]:
  """Deletes one; Refused with 404 if there is none."""
  await anyio.to_thread.run_sync(store.forget, kind, owner, name)
  return {"object": f"{kind}.deleted", "name": name, "deleted": True}


async def downloaded(store: Store, owner: str, kind: str, name: str) -> Response:
  """The file of one; Refused with 404 if there is none."""
  file, named = await anyio.to_thread.run_sync(store.file, kind, owner, name)
  headers = {
    "content-length": str(named.state.bytes),
    "content-disposition": f'attachment; filename="{name}.memory"',
  }
  return _Download(file, headers)


class _Download(StreamingResponse):
  """An open file, which is closed whether or not all of it is sent."""

  def __init__(self, file: BinaryIO, headers: dict[str, str]):
    super().__init__(_chunks(file), headers=headers, media_type=BYTES)
    self._file = file

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends it."""
    with self._file:
      await super().__call__(scope, receive, send)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
  while chunk := file.read(_CHUNK):
    yield chunk
