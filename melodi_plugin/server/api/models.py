"""Which model is served, whether it is, and what is counted."""

from typing import Any

import anyio.to_thread
from fastapi import APIRouter, Response
from openai.types import Model
from prometheus_client import CONTENT_TYPE_LATEST

from melodi_plugin.server.api.guards import Served
from melodi_plugin.server.service import Service

router = APIRouter()


@router.get("/v1/models")
async def models(service: Served) -> dict[str, Any]:
  """The one model."""
  return {"object": "list", "data": [_model(service)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, service: Served) -> dict[str, Any]:
  """The same; Refused for another name."""
  service.check_model(name)
  return _model(service)


@router.get("/health")
async def health(service: Served) -> dict[str, str]:
  """Refused unless new requests are answered."""
  service.check_open()
  return {"status": "ok"}


@router.get("/metrics")
async def metrics(service: Served) -> Response:
  """For Prometheus."""
  # The disk may be at work on what is asked of the store.
  text = await anyio.to_thread.run_sync(service.metrics.text)
  return Response(text, media_type=CONTENT_TYPE_LATEST)


def _model(service: Service) -> dict[str, Any]:
  own = Model(id=service.name, created=service.created, object="model", owned_by="melodi")
  # Clients read an integer there; nothing is ever cut off before it.
  return own.model_dump(exclude_unset=True) | {"max_model_len": service.limits.max_prompt_tokens}
