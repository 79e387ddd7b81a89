"""The name of our block, and our keys, in MaxText's configuration."""

import enum
import functools
import os
from typing import Any

import pydantic

from melodi_plugin.config import MEMORY_PATTERNS, PAPER, MelodiConfig, MelodiKeys
from melodi_plugin.host.seam import BLOCK, Undo, is_melodi, parameters, replace
from melodi_plugin.refusals import check, check_base_block


def _block_enum() -> type[enum.Enum]:
  from maxtext.common import common_types

  return common_types.DecoderBlockType


def probe_block() -> str | None:
  members = _block_enum()
  for table in ("_member_names_", "_member_map_", "_value2member_map_"):
    if table not in vars(members):
      return f"has no {table}"
  if BLOCK in vars(members)["_value2member_map_"]:
    return f"already has a member {BLOCK!r}"
  return None


def apply_block() -> Undo:
  members = _block_enum()
  member = object.__new__(members)
  member._name_, member._value_ = BLOCK.upper(), BLOCK
  member.__objclass__, member._sort_order_ = members, len(members)
  members._member_names_.append(member._name_)
  members._member_map_[member._name_] = member
  members._value2member_map_[BLOCK] = member
  type.__setattr__(members, member._name_, member)

  def undo() -> None:
    members._member_names_.remove(member._name_)
    del members._member_map_[member._name_], members._value2member_map_[BLOCK]
    type.__delattr__(members, member._name_)

  return undo


def probe_initialize() -> str | None:
  from maxtext.configs import pyconfig

  return parameters(pyconfig._initialize_pydantic, "argv", "config_class", "kwargs") or parameters(
    pyconfig._resolve_or_infer_config, "argv"
  )


def _complete(values: dict[str, Any]) -> dict[str, Any]:
  """What a MELODI config sets for its user, before MaxText looks at it."""
  block, base = values.get("decoder_block"), values.get("melodi_base_block", PAPER)
  if base != PAPER:
    values = {**values, **_around(block, base, values)}
  elif block != BLOCK:
    return values
  folder = values.get("base_output_directory")
  if folder and "://" not in folder:
    # Orbax refuses a relative folder, but only when the first checkpoint is due.
    values = {**values, "base_output_directory": os.path.abspath(folder)}
  return values


def _around(block: Any, base: str, values: dict[str, Any]) -> dict[str, Any]:
  """MaxText's branches on decoder_block must see the block that memory goes around."""
  block = getattr(block, "value", block)
  check_base_block(base)
  if block not in (BLOCK, base):
    raise ValueError(
      f"melodi_base_block={base} contradicts decoder_block={block}, which model_name or your "
      f"config sets; set melodi_base_block={block}."
    )
  # Memory's own parameters have no weight decay: gates must be free to move.
  no_decay = [*(values.get("adamw_mask") or []), *MEMORY_PATTERNS]
  return {"decoder_block": base, "adamw_mask": no_decay}


@functools.cache
def with_melodi_keys(base: type) -> type:
  """MaxText's config class with our keys."""
  validator = pydantic.model_validator(mode="before")(_complete)
  body = {"__module__": __name__, "complete": validator}
  return type(f"Melodi{base.__name__}", (MelodiKeys, base), body)


def _check_not_lost(config: Any, pyconfig: Any, argv: Any, kwargs: dict[str, Any]) -> None:
  """MaxText puts the decoder_block of a model_name over that of a file."""
  model = getattr(config, "model_name", "default")
  if model == "default":
    return
  path, _ = pyconfig._resolve_or_infer_config(argv, **kwargs)
  if pyconfig._load_config(path).get("decoder_block") == BLOCK:
    raise ValueError(
      f"model_name={model} brings layers of its own, so decoder_block=melodi would be lost; set "
      "melodi_base_block to the decoder_block of that model."
    )


def apply_initialize() -> Undo:
  from maxtext.configs import pyconfig, types

  original = pyconfig._initialize_pydantic

  @functools.wraps(original)
  def initialize(argv=None, config_class=types.MaxTextConfig, **kwargs):
    config = original(argv, config_class=with_melodi_keys(config_class), **kwargs)
    if is_melodi(config):
      check(config)
      MelodiConfig.from_maxtext(config)  # raises where the sizes contradict each other
    else:
      _check_not_lost(config, pyconfig, argv, kwargs)
    return config

  undo_replace = replace(pyconfig, "_initialize_pydantic", initialize)

  def undo() -> None:
    with_melodi_keys.cache_clear()  # its classes know this registration's enum member
    undo_replace()

  return undo


def probe_load() -> str | None:
  from maxtext.configs import pyconfig

  return parameters(pyconfig._load_config, "config_name")


def apply_load() -> Undo:
  """Defaults of our keys, as base.yml has those of MaxText's: so environment variables see them."""
  import omegaconf
  from maxtext.configs import pyconfig

  original = pyconfig._load_config
  defaults = MelodiKeys.model_validate({}).model_dump()

  @functools.wraps(original)
  def load(config_name):
    return omegaconf.OmegaConf.merge(defaults, original(config_name))

  return replace(pyconfig, "_load_config", load)
