"""What stands before all routes: who asks, by which name, how much at once; and what went wrong."""

import hashlib
import hmac
import itertools
import logging
import re
import urllib.parse
import uuid
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from melodi_plugin.server.errors import Refused
from melodi_plugin.server.service import Access, Service

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FILES = ("page.css", "page.js", "server.js", "shown.js", "talk.js", "icon.svg")
PAGE = ("/", *(f"/page/{name}" for name in _FILES))
ALWAYS_OPEN = ("/health", "/metrics", *PAGE)
WITHOUT_KEY = ("/health", *PAGE)  # a page asks for the key that its requests are to send
MEMORIES = "/v1/memories"  # files of states are uploaded there, which may be longer than texts
_HEADER_BYTES = 2**24  # of such a file, at most
_NAMES = 32  # of ignored fields that are told
_log = logging.getLogger(__name__)


def refusal(refused: Refused) -> JSONResponse:
  """What HTTP says of it."""
  headers = {}
  if refused.retry_after is not None:
    headers["retry-after"] = str(refused.retry_after)
  if refused.status == 401:
    headers["www-authenticate"] = "Bearer"
  return JSONResponse(refused.body, refused.status, headers)


def server_error(error: BaseException) -> Refused:
  """What is told of an error that nobody foresaw; the log has the rest."""
  _log.error("A request failed.", exc_info=error)
  return Refused(500, "The server failed in a way that its log describes; ask again, or tell them.")


class Guards:
  """The outermost ASGI application.

  In a request's state it leaves `request_id` and `owner`; routes leave the names of fields that
  they do not know in `ignored`.
  """

  def __init__(self, app: ASGIApp, service: Service):
    self._app, self._service = app, service

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """One request."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    state = scope.setdefault("state", {})
    state["request_id"], state["ignored"] = _request_id(Headers(scope=scope)), ()
    started = False

    async def tell(message: Message) -> None:
      nonlocal started
      if message["type"] == "http.response.start":
        started = True
        _add_headers(message, state)
        self._service.metrics.answered(_route(scope), message["status"])
      await send(message)

    try:
      response = self._refused(scope)
      if response is None:
        await self._app(scope, _counted(scope, receive, self._service), tell)
    except Exception as error:
      refused = error if isinstance(error, Refused) else server_error(error)
      if started:  # nothing can be told any more but by a connection that breaks off
        raise
      response = refusal(refused)
    if response is not None:
      await response(scope, receive, tell)

  def _refused(self, scope: Scope) -> Response | None:
    headers, path = Headers(scope=scope), scope["path"]
    try:
      _check_host(headers.get("host", ""), self._service.access)
      scope["state"]["owner"] = ""
      if path not in WITHOUT_KEY:
        scope["state"]["owner"] = _owner(headers.get("authorization", ""), self._service.access)
      if path not in ALWAYS_OPEN:
        self._service.check_open()
      _check_length(int(length) if (length := _length(headers)) else 0, scope, self._service)
    except Refused as refused:
      return refusal(refused)
    return None


def _owner_of(request: Request) -> str:
  return request.state.owner


Owner = Annotated[str, Depends(_owner_of)]  # whose a request is: a digest of the key; "" without


def _service_of(request: Request) -> Service:
  return request.app.state.service


Served = Annotated[Service, Depends(_service_of)]


def _request_id(headers: Headers) -> str:
  given = headers.get("x-request-id", "")
  return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else uuid.uuid4().hex


def _add_headers(message: Message, state: dict[str, Any]) -> None:
  headers = MutableHeaders(scope=message)
  headers["x-request-id"] = state["request_id"]
  if names := state["ignored"]:
    # Quoted, because a name may hold what must not stand in a header.
    headers["x-melodi-ignored"] = ", ".join(urllib.parse.quote(name[:64]) for name in names)


def _route(scope: Scope) -> str:
  """The route's own path, without what stands for its parts."""
  return getattr(scope.get("route"), "path", "") or "none"


def _check_host(host: str, access: Access) -> None:
  name = re.sub(r":\d*$", "", host).strip("[]").lower()
  if name not in (*LOOPBACK, *(own.lower() for own in access.hosts)):
    raise Refused(
      400,
      f"The host {host[:64]!r} is not a name of this server; ask by another name, or add it to "
      "melodi_serve_hosts.",
      code="unknown_host",
    )


def _owner(authorization: str, access: Access) -> str:
  if not access.keys:
    return ""
  scheme, _, given = authorization.partition(" ")
  # All keys are compared, and digests of equal length, so that time tells nothing.
  right = [hmac.compare_digest(_digest(given.strip()), _digest(key)) for key in access.keys]
  if scheme.lower() != "bearer" or not any(right):
    raise Refused(
      401,
      "The API key is missing or wrong; send the header 'Authorization: Bearer KEY'.",
      code="invalid_api_key",
    )
  return _digest(given.strip())


def _digest(key: str) -> str:
  return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _length(headers: Headers) -> str:
  length = headers.get("content-length", "")
  return length if length.isascii() and length.isdigit() else ""


def _check_length(length: int, scope: Scope, service: Service) -> None:
  most = service.limits.max_body_bytes
  if scope["method"] == "PUT" and scope["path"].startswith(MEMORIES):
    most = max(most, service.row_bytes + _HEADER_BYTES)
  if length > most:
    raise Refused(413, f"The request is longer than {most} bytes; send less at once.")


def _counted(scope: Scope, receive: Receive, service: Service) -> Receive:
  """The parts of a body, until they are too many: not all requests say their length."""
  count = 0

  async def counted() -> Message:
    nonlocal count
    message = await receive()
    if message["type"] == "http.request":
      count += len(message.get("body", b""))
      _check_length(count, scope, service)
    return message

  return counted


def ignored(request: Request, names: Iterable[str]) -> None:
  """Tells the client which of its fields count for nothing."""
  request.state.ignored = tuple(itertools.islice(names, _NAMES))
