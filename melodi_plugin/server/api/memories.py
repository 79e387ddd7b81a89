"""Documents that are read once: written, listed, downloaded, uploaded, deleted."""

import contextlib
import os
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from melodi_plugin.server.answers import Wanted
from melodi_plugin.server.api.asking import checked_ids
from melodi_plugin.server.api.bodies import Body, read_as
from melodi_plugin.server.api.generating import Choice, generation, unless_gone
from melodi_plugin.server.api.guards import MEMORIES, Owner, Served
from melodi_plugin.server.api.kept import BYTES, Kept, downloaded, forgotten, found, listed
from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Service
from melodi_plugin.server.states.files import disk_errors
from melodi_plugin.server.states.names import checked_name
from melodi_plugin.server.states.store import Store
from melodi_plugin.server.texts import Prompt
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends

router = APIRouter(prefix=MEMORIES)


class MemoryBody(Body):
  """A text, and what it is to be called."""

  name: str
  text: str
  title: str | None = Field(None, max_length=256)


async def _memory_of(
  request: Request, name: str | None = None, title: Annotated[str, Query(max_length=256)] = ""
) -> MemoryBody:
  """The body as JSON; or a text as it is, with its name in the query."""
  # A page in a browser can send text/plain to any server without asking it first.
  if request.headers.get("content-type", "").split(";")[0].strip().lower() != BYTES:
    return await read_as(MemoryBody)(request)
  if name is None:
    raise Refused(400, "The text has no name; add ?name= to the path.", param="name")
  try:
    return MemoryBody(name=name, text=(await request.body()).decode(), title=title)
  except UnicodeDecodeError as error:
    raise Refused(
      400, f"The text is not UTF-8: its byte {error.start} is wrong; convert it.", param="text"
    ) from None


@router.get("")
async def memories(store: Kept, owner: Owner) -> dict[str, Any]:
  """All of them."""
  return await listed(store, owner, "memory")


@router.post("", status_code=201)
async def create(
  request: Request,
  body: Annotated[MemoryBody, Depends(_memory_of)],
  service: Served,
  store: Kept,
  owner: Owner,
) -> dict[str, Any]:
  """Reads a text; answers when it is on the disk, under a name that was free."""
  checked_name(body.name, "name")
  if not body.text:
    raise Refused(400, "The text is empty; write some.", param="text")
  with store.claims.claimed("memory", owner, body.name):
    if await anyio.to_thread.run_sync(store.head, "memory", owner, body.name):
      raise Refused(
        409,
        f"There is a memory {body.name} already; choose another name, or delete it.",
        param="name",
      )
    await unless_gone(request, _read(body, service, store, owner))
  return await found(store, owner, "memory", body.name)


async def _read(body: MemoryBody, service: Service, store: Store, owner: str) -> None:
  def ids() -> Any:
    return checked_ids(service.tokenizer.prompt(body.text), service, "text")

  prompt = Prompt(await anyio.to_thread.run_sync(ids))
  wanted = Wanted(prompt, SamplingSettings(temperature=0), Ends(0), owner, keep=True)
  choice = Choice(0, wanted, len(prompt.ids))
  async with generation(service, [choice]) as texts:
    async for _ in texts.events:
      pass
  assert choice.finished is not None
  row, pending = choice.finished

  def add() -> None:
    store.add(
      owner,
      "memory",
      row,
      pending,
      tokens=len(prompt.ids),
      title=body.title or body.name,
      memory=body.name,
    )

  await anyio.to_thread.run_sync(add)


@router.get("/{name}")
async def memory(name: str, store: Kept, owner: Owner) -> dict[str, Any]:
  """One of them."""
  return await found(store, owner, "memory", name)


@router.delete("/{name}")
async def delete(name: str, store: Kept, owner: Owner) -> dict[str, Any]:
  """It is there no more; sessions that began with it go on."""
  return await forgotten(store, owner, "memory", name)


@router.get("/{name}/content")
async def download(name: str, store: Kept, owner: Owner) -> Response:
  """Its file."""
  return await downloaded(store, owner, "memory", name)


@router.put("/{name}/content")
async def upload(request: Request, name: str, store: Kept, owner: Owner) -> dict[str, Any]:
  """Takes a memory file, in the place of one of this name."""
  checked_name(name, "name")
  path = store.incoming()
  try:
    with disk_errors(), open(path, "xb") as file:
      async for chunk in request.stream():
        await anyio.to_thread.run_sync(file.write, chunk)
    await anyio.to_thread.run_sync(store.adopt, owner, path, name)
  finally:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
  return await found(store, owner, "memory", name)
