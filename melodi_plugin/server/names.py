"""What users call things, and how a user is known without their key."""

import hashlib
import re

from melodi_plugin.server.errors import Refused

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
