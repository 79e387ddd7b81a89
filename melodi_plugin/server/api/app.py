"""All routes in one application."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from melodi_plugin.server.api import (
  chat,
  completions,
  memories,
  models,
  responses,
  sessions,
  tokens,
)
from melodi_plugin.server.api.bodies import refused
from melodi_plugin.server.api.generating import Gone
from melodi_plugin.server.api.guards import Guards, refusal
from melodi_plugin.server.api.page import routes as page
from melodi_plugin.server.errors import KINDS, Refused
from melodi_plugin.server.service import Service

ROUTERS = (
  completions.router,
  chat.router,
  tokens.router,
  models.router,
  memories.router,
  sessions.router,
  responses.router,
  page.router,
)
_NOBODY_LISTENS = 499  # as proxies log it; it is never received


def make_app(service: Service) -> FastAPI:
  """The ASGI application that serves `service`; every error has the form of `Refused.body`."""
  app = FastAPI(
    title="MELODI",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    redirect_slashes=False,
    middleware=[Middleware(Guards, service=service)],
    exception_handlers={
      Refused: _of_refused,
      Gone: _of_gone,
      ClientDisconnect: _of_gone,
      RequestValidationError: _of_parameters,
      HTTPException: _of_http,
    },
  )
  app.state.service = service
  for router in ROUTERS:
    app.include_router(router)
  return app


async def _of_refused(_: Request, error: Any) -> Response:
  return refusal(error)


async def _of_gone(_: Request, __: Any) -> Response:
  return Response(status_code=_NOBODY_LISTENS)


async def _of_parameters(_: Request, error: Any) -> Response:
  # The first part of a place says whether it is in the path or the query.
  return refusal(refused([{**one, "loc": one["loc"][1:]} for one in error.errors()]))


async def _of_http(request: Request, error: Any) -> Response:
  if error.status_code == 404:
    own = Refused(404, f"There is no {request.url.path[:64]} here; see the README for routes.")
  elif error.status_code == 405:
    own = Refused(405, f"{request.method} is not for {request.url.path[:64]}; use another one.")
  else:
    status = error.status_code if error.status_code in KINDS else 400
    own = Refused(status, f"The request is refused: {error.detail}.")
  response = refusal(own)
  response.headers.update(error.headers or {})
  return response
