"""The systems, by their names: the values of `decoder_block`; ours, and those of users."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.settings import as_written

MELODI = "melodi"
TRANSFORMER_XL = "transformer_xl"
MEMORIZING = "memorizing_transformer"
BLOCK_RECURRENT = "block_recurrent"
SYSTEMS = (MELODI, TRANSFORMER_XL, MEMORIZING, BLOCK_RECURRENT)


class UserSystem(NamedTuple):
  """A system of a user, as far as configs go; `systems.table` has the parts of its layers."""

  name: str
  keys: type[BaseModel]  # the keys that it adds, none if it has no fields
  layer: Callable[..., Any] | None  # (MelodiConfig, index) -> LayerSpec, if not LayerSpec()


USERS: dict[str, UserSystem] = {}


def add_user_system(system: UserSystem) -> None:
  """Makes a name known.

  Raises:
    ValueError: the name is taken or is none, or a key is.
  """
  name = system.name
  if not name.isidentifier():
    raise ValueError(f"the system {name!r} needs a name of letters, digits and underscores.")
  if name in names():
    raise ValueError(f"there is a system {name} already; register yours under another name.")
  for key, field in system.keys.model_fields.items():
    if field.is_required():
      raise ValueError(f"the key {key} of the system {name} needs a default.")
    owner = next((user.name for user in USERS.values() if key in user.keys.model_fields), None)
    if key in MelodiKeys.model_fields or owner:
      raise ValueError(
        f"the key {key} of the system {name} is one of {owner or 'melodi_plugin'} already; begin "
        f"its name with {name}_."
      )
  USERS[name] = system


def names() -> tuple[str, ...]:
  """Of all systems, in the order in which they became known."""
  return (*SYSTEMS, *USERS)


def user_keys() -> tuple[type[BaseModel], ...]:
  """What users have added to `MelodiKeys`."""
  return tuple(user.keys for user in USERS.values() if user.keys.model_fields)


def own_settings(system: str, config: Any) -> Any:
  """The keys of a user's system as a config has them: a frozen, hashable instance; else None."""
  if system not in USERS or not (keys := USERS[system].keys).model_fields:
    return None
  read = {key: _hashable(getattr(config, key)) for key in keys.model_fields}
  return _frozen(keys).model_construct(**read)


@functools.cache
def _frozen(keys: type[BaseModel]) -> type[BaseModel]:
  return type(keys.__name__, (keys,), {"__module__": keys.__module__}, frozen=True)


def _hashable(value: Any) -> Any:
  return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def system_of(config: Any) -> str:
  """The system that a MaxText config asks for; around a stock block it is MELODI."""
  block = as_written(config.decoder_block)
  return MELODI if config.melodi_base_block != PAPER else block


def is_melodi(config: Any) -> bool:
  """Whether a MaxText config asks for a decoder with memory: a system, or around a stock block."""
  return as_written(getattr(config, "decoder_block", None)) in names() or has_base_block(config)


def reads_in_rows(config: Any) -> bool:
  """Whether our loader feeds it: a decoder with memory, or a stock one that asks for it."""
  return is_melodi(config) or getattr(config, "melodi_documents_in_rows", False)


def has_base_block(config: Any) -> bool:
  """Whether memory goes around a block of MaxText; `decoder_block` is then that block."""
  return getattr(config, "melodi_base_block", PAPER) != PAPER


def is_counted(config: Any) -> bool:
  """Whether we know what a config stores and costs: not if a user has registered its system."""
  return as_written(config.decoder_block) not in USERS
