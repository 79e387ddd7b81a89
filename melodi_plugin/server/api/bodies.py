"""What a request says, checked before anything is read or written for it."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError

from melodi_plugin.server.api.guards import ignored
from melodi_plugin.server.errors import Refused

_LARGE = 2**18  # bytes of a body that would hold up others while it is parsed


class Body(BaseModel):
  """Fields that no one knows are ignored, and told in a header; null is as if left out."""

  model_config = ConfigDict(extra="allow", allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Body)


def read_as(kind: type[Kind]) -> Callable[[Request], Coroutine[Any, Any, Kind]]:
  """What a route depends on to have its request's body."""

  async def read(request: Request) -> Kind:
    # A page in a browser can send other types to any server without asking it first.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
      raise Refused(
        400, "The request is not JSON; send the header 'Content-Type: application/json'."
      )
    raw = await request.body()
    if len(raw) < _LARGE:
      body = _parsed(kind, raw)
    else:
      body = await anyio.to_thread.run_sync(_parsed, kind, raw)
    ignored(request, list(body.model_extra or ()))
    return body

  return read


def _parsed(kind: type[Kind], raw: bytes) -> Kind:
  try:
    return kind.model_validate_json(raw)
  except ValidationError as error:
    raise refused(error.errors(include_url=False, include_context=False)) from None


def refused(errors: list[Any]) -> Refused:
  """The first thing that is wrong: which field, and what it should be."""
  first = errors[0]
  field = next((part for part in first["loc"] if isinstance(part, str)), None)
  where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(".")
  message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
  sentence = f"{message[:1].lower()}{message[1:]}".rstrip(".")
  if first["type"] == "json_invalid":
    return Refused(400, f"The request is not JSON: {sentence}.")
  return Refused(400, f"{where or 'The request'} is refused: {sentence}.", param=field)
