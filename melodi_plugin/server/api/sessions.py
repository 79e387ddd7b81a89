"""Conversations that go on: listed, begun from others, deleted; what writes them is elsewhere."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from melodi_plugin.server.api.bodies import Body, read_as
from melodi_plugin.server.api.guards import Owner
from melodi_plugin.server.api.kept import Kept, downloaded, forgotten, found, listed
from melodi_plugin.server.errors import Refused

router = APIRouter(prefix="/v1/sessions")


class ForkBody(Body):
  """A new session, and the one thing that it begins with."""

  name: str
  session: str | None = Field(None, alias="from")
  memory: str | None = None
  previous_response_id: str | None = None


@router.get("")
async def sessions(store: Kept, owner: Owner) -> dict[str, Any]:
  """All of them."""
  return await listed(store, owner, "session")


@router.post("", status_code=201)
async def fork(
  body: Annotated[ForkBody, Depends(read_as(ForkBody))], store: Kept, owner: Owner
) -> dict[str, Any]:
  """A session begins where another, a memory or a response is; that one stays as it is."""
  given = {"from": body.session, "memory": body.memory, "response": body.previous_response_id}
  sources = [(kind, name) for kind, name in given.items() if name is not None]
  if len(sources) != 1:
    raise Refused(
      400,
      "A session begins with one thing; give from (a session), memory, or previous_response_id.",
      param="from",
    )
  ((kind, source),) = sources
  if kind == "response":
    await anyio.to_thread.run_sync(store.move, owner, body.name, source)
  else:
    kind = "session" if kind == "from" else kind
    await anyio.to_thread.run_sync(store.fork, owner, kind, source, body.name)
  return await found(store, owner, "session", body.name)


@router.get("/{name}")
async def session(name: str, store: Kept, owner: Owner) -> dict[str, Any]:
  """One of them."""
  return await found(store, owner, "session", name)


@router.get("/{name}/content")
async def download(name: str, store: Kept, owner: Owner) -> Response:
  """Its file, which can be uploaded as a memory: here, or on another server of this model."""
  return await downloaded(store, owner, "session", name)


@router.delete("/{name}")
async def delete(name: str, store: Kept, owner: Owner) -> dict[str, Any]:
  """It is there no more; responses that it had are found as before."""
  return await forgotten(store, owner, "session", name)
