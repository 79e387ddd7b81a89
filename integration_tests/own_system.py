"""Parts of a user's system that fit together, and keys of its own."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from pydantic import BaseModel, Field

import melodi_plugin
from melodi_plugin.config import systems
from melodi_plugin.core.memories.nothing import Nothing
from melodi_plugin.core.memories.short_term import Mixed
from melodi_plugin.systems import table
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.paper.reader import PaperReader


class OwnKeys(BaseModel):
  mine_size: int = Field(3, gt=0)
  mine_layers: list[int] = Field([0, 1])


def whole(**changed: Any):
  """`parts` of a system that works, but for what is changed."""
  own = table.Parts(PaperReader, Mixed, Nothing, PaperLayerParams)
  return lambda config, spec: own._replace(**changed)


def register_system(name: str = "mine", keys: Any = OwnKeys, **options: Any) -> None:
  """Registers it."""
  melodi_plugin.register_system(name, whole(), keys=keys, **options)


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
  """Systems that are registered in here, and the example's module, are forgotten after it."""
  path = list(sys.path)
  sys.modules.pop("armt", None)
  with mock.patch.dict(systems.USERS, clear=True), mock.patch.dict(table.SYSTEMS):
    yield
  sys.path[:] = path
  sys.modules.pop("armt", None)
