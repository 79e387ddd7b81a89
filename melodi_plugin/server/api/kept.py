"""What is kept under names, as routes find and tell it."""

from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends

from melodi_plugin.server.api.guards import Served
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.states.index import Named
from melodi_plugin.server.states.store import Store


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
