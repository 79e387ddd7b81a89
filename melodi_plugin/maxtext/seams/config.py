"""The names of our systems, and our keys, in MaxText's configuration."""

import difflib
import enum
import functools
import os
from collections.abc import Callable
from typing import Any

import pydantic

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.parameter_names import MEMORY_PATTERNS, UNDECAYED_PATTERNS
from melodi_plugin.config.settings import as_written
from melodi_plugin.config.systems import (
  MELODI,
  SYSTEMS,
  is_counted,
  is_melodi,
  names,
  user_keys,
)
from melodi_plugin.maxtext.decoders.stock_refusals import check_stock
from melodi_plugin.maxtext.refusals.blocks import check, check_base_block
from melodi_plugin.maxtext.seams.imports import import_systems
from melodi_plugin.maxtext.seams.seam import (
  Undo,
  add_member,
  all_of,
  parameters,
  probe_member,
  replace,
)

_DERIVED = "set_derived_and_validate_values"  # of MaxText's config


def _block_enum() -> type[enum.Enum]:
  from maxtext.common import common_types

  return common_types.DecoderBlockType


def probe_block() -> str | None:
  return next(filter(None, (probe_member(_block_enum(), name) for name in SYSTEMS)), None)


def apply_block() -> Undo:
  return all_of([add_member(_block_enum(), name) for name in SYSTEMS])


def _add_users(added: dict[str, Undo]) -> None:
  """Gives the systems that users have registered since a place beside MaxText's blocks."""
  for name in [name for name in names() if name not in (*SYSTEMS, *added)]:
    if probe_member(_block_enum(), name):
      raise ValueError(
        f"the system {name} has the name of a decoder_block of MaxText; register it under another "
        "name."
      )
    added[name] = add_member(_block_enum(), name)


def probe_initialize() -> str | None:
  from maxtext.configs import pyconfig, types

  if not hasattr(types.MaxTextConfig, _DERIVED):
    return f"MaxTextConfig has no {_DERIVED}"
  return parameters(pyconfig._initialize_pydantic, "argv", "config_class", "kwargs") or parameters(
    pyconfig._resolve_or_infer_config, "argv"
  )


def complete(values: dict[str, Any]) -> dict[str, Any]:
  """What our configs set for their users, before MaxText looks at them."""
  block, base = values.get("decoder_block"), values.get("melodi_base_block", PAPER)
  if base != PAPER:
    values = {**values, **_around(block, base, values)}
  elif as_written(block) in SYSTEMS:
    values = {**values, "adamw_mask": values.get("adamw_mask") or [*UNDECAYED_PATTERNS]}
  elif not values.get("melodi_documents_in_rows"):
    return values
  folder = values.get("base_output_directory")
  if folder and "://" not in folder:
    # Orbax refuses a relative folder, but only when the first checkpoint is due.
    values = {**values, "base_output_directory": os.path.abspath(folder)}
  return values


def _around(block: Any, base: str, values: dict[str, Any]) -> dict[str, Any]:
  """MaxText's branches on decoder_block must see the block that memory goes around."""
  block = as_written(block)
  check_base_block(base)
  if block in names() and block != MELODI:
    raise ValueError(
      f"decoder_block={block} has layers of its own and cannot go around {base}; leave "
      "melodi_base_block at 'paper'."
    )
  if block not in (MELODI, base):
    raise ValueError(
      f"melodi_base_block={base} contradicts decoder_block={block}, which model_name or your "
      f"config sets; set melodi_base_block={block}."
    )
  # Memory's own parameters have no weight decay: gates must be free to move.
  no_decay = [*(values.get("adamw_mask") or []), *MEMORY_PATTERNS]
  return {"decoder_block": base, "adamw_mask": no_decay}


def _checked(values: dict[str, Any]) -> dict[str, Any]:
  """Completed; raises ValueError for 0 tiles, or a `decoder_block` that nobody has registered."""
  tiles = values.get("num_vocab_tiling")
  if isinstance(tiles, int) and tiles < 1:  # MaxText divides by it before it has checked it
    raise ValueError(f"num_vocab_tiling={tiles} is no number of tiles; set it to 1 or more.")
  block, known = values.get("decoder_block"), [member.value for member in _block_enum()]
  if block is None or as_written(block) in known:
    return complete(values)
  near = difflib.get_close_matches(str(block), known, n=1)
  raise ValueError(
    f"there is no decoder_block {block}; {f'did you mean {near[0]}, or ' if near else ''}"
    "is it a system of your own?  Then set melodi_imports to the module that registers it."
  )


def _open_to_muon(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
  """MaxText's last validator, without its closed list of blocks where the block is one of ours."""

  def set_derived_and_validate_values(self: Any) -> Any:
    if not (self.opt_type == "muon" and is_melodi(self)):
      return original(self)
    muon = self.opt_type
    self.__dict__["opt_type"] = type(muon).ADAMW
    try:
      return original(self)
    finally:
      self.__dict__["opt_type"] = muon

  return set_derived_and_validate_values


def with_melodi_keys(base: type) -> type:
  """MaxText's config class with our keys, and those of users."""
  return _with_keys(base, user_keys(), names())


@functools.cache
def _with_keys(base: type, users: tuple[type, ...], blocks: tuple[str, ...]) -> type:
  """One class per set of `blocks`: pydantic reads the members of an enum only once per class."""
  body: dict[str, Any] = {
    "__module__": __name__,
    "complete": pydantic.model_validator(mode="before")(_checked),
  }
  if last := getattr(base, _DERIVED, None):  # post-training has configs of its own
    body[_DERIVED] = pydantic.model_validator(mode="after")(_open_to_muon(last))
  return type(f"Melodi{base.__name__}", (*users, MelodiKeys, base), body)


def _check_not_lost(config: Any, pyconfig: Any, argv: Any, kwargs: dict[str, Any]) -> None:
  """MaxText puts the decoder_block of a model_name over that of a file."""
  model = getattr(config, "model_name", "default")
  said = "decoder_block" in kwargs or any(str(w).startswith("decoder_block=") for w in argv or ())
  if model == "default" or said:
    return
  path, _ = pyconfig._resolve_or_infer_config(argv, **kwargs)
  block = pyconfig._load_config(path).get("decoder_block")
  if block in names():
    raise ValueError(
      f"model_name={model} brings layers of its own, so decoder_block={block} would be lost; set "
      "melodi_base_block to the decoder_block of that model, or leave model_name out."
    )


def apply_initialize() -> Undo:
  from maxtext.configs import pyconfig, types

  original = pyconfig._initialize_pydantic
  added: dict[str, Undo] = {}  # enum members of the systems of users

  @functools.wraps(original)
  def initialize(argv=None, config_class=types.MaxTextConfig, **kwargs):
    import_systems(argv or (), kwargs)
    _add_users(added)
    config = original(argv, config_class=with_melodi_keys(config_class), **kwargs)
    if is_melodi(config):
      check(config)
      sizes = MelodiConfig.from_maxtext(config)  # raises where they contradict each other
      if not is_counted(config):
        from melodi_plugin.systems.fit import check_fit

        check_fit(sizes)
    else:
      check_stock(config)
      _check_not_lost(config, pyconfig, argv, kwargs)
    return config

  undo_replace = replace(pyconfig, "_initialize_pydantic", initialize)
  # The cached classes know this registration's enum members.
  return all_of([_with_keys.cache_clear, lambda: all_of([*added.values()])(), undo_replace])


def probe_load() -> str | None:
  from maxtext.configs import pyconfig

  return parameters(pyconfig._load_config, "config_name")


def apply_load() -> Undo:
  """Defaults of our keys, as base.yml has those of MaxText's: so environment variables see them."""
  import omegaconf
  from maxtext.configs import pyconfig

  original = pyconfig._load_config

  @functools.wraps(original)
  def load(config_name):
    defaults = [keys.model_validate({}).model_dump() for keys in (MelodiKeys, *user_keys())]
    # All of them are made here, so none need be copied.
    return omegaconf.OmegaConf.unsafe_merge(*defaults, original(config_name))

  return replace(pyconfig, "_load_config", load)
