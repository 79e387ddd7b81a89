"""What a request says, checked before anything is read or written for it."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from melodi_plugin.server.api.guards import ignored
from melodi_plugin.server.errors import Refused

_LARGE = 2**18  # bytes of a body that would hold up others while it is parsed
# What becomes of a large body takes many times its bytes, so only one is parsed at once.
_one_large = anyio.CapacityLimiter(1)


class Body(BaseModel):
  """Fields that no one knows are ignored, and told in a header; null is as if left out."""

  model_config = ConfigDict(extra="allow", allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Body)
Item = TypeVar("Item")
# One wrong item is told; a note of each of millions would fill main memory.
Items = Annotated[list[Item], Field(fail_fast=True)]


def at_most(count: int) -> BeforeValidator:
  """The same for an object: of too many fields none is looked at."""

  def few(given: Any) -> Any:
    if isinstance(given, dict) and len(given) > count:
      raise ValueError(f"it should have at most {count} fields, and has {len(given)}")
    return given

  return BeforeValidator(few)


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
      body = await anyio.to_thread.run_sync(_parsed, kind, raw, limiter=_one_large)
    ignored(request, body.model_extra or ())
    (body.model_extra or {}).clear()
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
