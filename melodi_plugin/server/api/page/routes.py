"""GET /: a page to talk with the model; it asks the same routes as other clients."""

import importlib.resources
import mimetypes
from typing import Any

from fastapi import APIRouter, Request, Response

from melodi_plugin.server.api.guards import PAGE, Served

_HEADERS = {
  # Only its own files: what a model writes can never become code.
  "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
  "frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-cache",
}
_FOLDER = importlib.resources.files(__package__ or "")
_TYPES = mimetypes.MimeTypes(filenames=())  # what this machine has set does not count
router = APIRouter()


async def page(request: Request) -> Response:
  """A file of the page."""
  name = request.url.path.rpartition("/")[2] or "index.html"
  kind, _ = _TYPES.guess_type(name)
  return Response((_FOLDER / name).read_bytes(), media_type=kind, headers=_HEADERS)


for _path in PAGE:
  router.add_api_route(_path, page)


@router.get("/page/about")
async def about(service: Served) -> dict[str, Any]:
  """What the page has to know before it asks anything.

  Returns:
    model: name of it.
    chat: whether it answers messages, or goes on with a text.
    memories: whether they are kept.
    sessions: whether a conversation is kept, so that its new messages are enough.
    row_bytes: of the state of one conversation, however long it is.
  """
  keeps = service.store is not None
  return {
    "model": service.name,
    "chat": service.chat is not None,
    "memories": keeps,
    "sessions": keeps and (service.chat is None or service.chat.extends),
    "row_bytes": service.row_bytes,
  }
