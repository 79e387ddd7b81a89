"""What users call things, and how a user is known without their key."""

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator

from melodi_plugin.server.errors import Refused

BRIEF = "page-"  # sessions of this begin belong to a page in a browser, which leaves them behind
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def checked_name(name: str, param: str) -> str:
  """The name, which can stand in a URL and is no path; Refused if it is none.

  Args:
    name: as the request has it.
    param: the field of the request that holds it.
  """
  if not _NAME.fullmatch(name) or name in (".", ".."):
    raise Refused(
      400,
      f"{param} must be a name of 1 to 64 letters, digits, dots, hyphens and underscores; it is "
      f"{name[:80]!r}.",
      param=param,
    )
  return name


def hash_of_owner(key: str) -> str:
  """Stands on the disk for a key, or for what stands for it elsewhere."""
  return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


class Claims:
  """Names that one request has for itself; for many threads."""

  def __init__(self):
    self._lock, self._claimed = threading.Lock(), set[tuple[str, str, str]]()

  @contextlib.contextmanager
  def claimed(self, kind: str, owner: str, name: str) -> Iterator[None]:
    """The name is this request's in the block; Refused with 409 while it is another's."""
    claim = (kind, owner, checked_name(name, kind))
    with self._lock:
      if claim in self._claimed:
        raise Refused(
          409,
          f"Another request is at work on the {kind} {name}; wait for its end.",
          param=kind,
          code=f"{kind}_busy",
        )
      self._claimed.add(claim)
    try:
      yield
    finally:
      self._claimed.discard(claim)
