"""A config's keys without MaxText, whose import takes 8 seconds and more.

Only what is plainly right is read here.  Whatever else a config may say, or say wrongly, is left to
MaxText, so its rules and its errors stand in one place.
"""

import functools
import importlib.util
import os
import pathlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import SYSTEMS, is_melodi
from melodi_plugin.maxtext.decoders.stock_refusals import check_stock
from melodi_plugin.maxtext.refusals.blocks import check
from melodi_plugin.maxtext.seams.config import complete

# What a command adds that reads no documents of training: MaxText would ask for them.
WITHOUT_DOCUMENTS = "dataset_type=synthetic"
# Of MaxText's base.yml: sizes that it multiplies by a global scale, which is 1 here.
_SCALED = ("emb_dim", "num_query_heads", "num_kv_heads", "mlp_dim", "num_decoder_layers")
_UNSCALED = {"global_parameter_scale": 1, "override_model_config": False}
# Keys that MaxText knows and its base.yml does not name, as far as `refusals` look at them.
_UNNAMED = {"student_overrides": {}, "teacher_overrides": {}}


class _AskMaxText(Exception):  # noqa: N818, nothing has gone wrong
  """The config is wrong, or means more than can be said without MaxText."""


def read_light(argv: Sequence[str]) -> Any | None:
  """The keys of `[config.yml, key=value, …]` as attributes, or None where MaxText has to be asked.

  Values are those that MaxText would have, but for enums, which are their texts.
  """
  try:
    return _read(*argv)
  except (_AskMaxText, ValueError, AttributeError, OSError, yaml.YAMLError, OmegaConfBaseException):
    return None


def _read(path: str, *arguments: str) -> Any:
  files = _chain(path)
  given = OmegaConf.from_cli(list(arguments))
  asked: Any = OmegaConf.merge(files, given)
  model = _model_file(path, str(asked.get("model_name", "default")))
  if given.keys() & model.keys():
    raise _AskMaxText
  base = _base()
  values: Any = OmegaConf.to_container(OmegaConf.merge(base, files, model, given), resolve=True)
  values.pop("base_config", None)
  values = _with_nulls(values)
  defaults = _with_nulls(OmegaConf.to_container(base))
  _check(values, defaults)
  if values["melodi_imports"]:
    raise _AskMaxText
  own = {key: value for key, value in values.items() if key in MelodiKeys.model_fields}
  values |= MelodiKeys(**own).model_dump()
  values = complete(values)
  values |= {name: values[f"base_{name}"] for name in _SCALED}
  config = SimpleNamespace(**_UNNAMED | values)
  if is_melodi(config):
    check(config)
    MelodiConfig.from_maxtext(config)
  elif files.get("decoder_block") in SYSTEMS:
    raise _AskMaxText  # lost under the decoder_block of a model_name
  else:
    check_stock(config)
  return config


def _with_nulls(values: Any) -> dict[str, Any]:
  """MaxText reads the word none as null, in base.yml too."""
  return {k: None if str(v).lower() == "none" else v for k, v in values.items()}


def _check(values: dict[str, Any], defaults: dict[str, Any]) -> None:
  """Every key is known and of the type that it has in base.yml, and no environment changes it."""
  for key, value in values.items():
    if key not in defaults or f"M_{key.upper()}" in os.environ:
      raise _AskMaxText
    default = defaults[key]
    alike = isinstance(value, type(default)) or default in (None, "") or value is None
    number = isinstance(default, float) and type(value) is int
    if key not in MelodiKeys.model_fields and not (alike or number):
      raise _AskMaxText
  if any(values[key] != value for key, value in _UNSCALED.items()):
    raise _AskMaxText


def _folder() -> pathlib.Path:
  """MaxText's own configs; looking for a package does not import it."""
  spec = importlib.util.find_spec("maxtext")
  if spec is None or not spec.submodule_search_locations:
    raise _AskMaxText
  return pathlib.Path(spec.submodule_search_locations[0]) / "configs"


@functools.cache
def _base() -> Any:
  """base.yml, and our keys; both know all keys of a light config."""
  return OmegaConf.merge(
    MelodiKeys.model_validate({}).model_dump(), OmegaConf.load(_folder() / "base.yml")
  )


def _chain(path: str) -> Any:
  """A file on top of its base_config, down to MaxText's base.yml, which is left out."""
  own: Any = OmegaConf.load(path)
  below = own.get("base_config")
  if below is None or below == "base.yml":
    return own
  beside = pathlib.Path(path).parent / below
  return OmegaConf.merge(_chain(str(beside if beside.is_file() else _folder() / below)), own)


def _model_file(path: str, name: str) -> Any:
  """What MaxText's file of a model_name sets."""
  if name == "default":
    return OmegaConf.create()
  here = pathlib.Path(path).parent
  name = f"models/{name.replace('-Instruct', '')}.yml"
  if (here / name).is_file() or (here.parent / name).is_file():
    raise _AskMaxText
  return OmegaConf.load(_folder() / name)
