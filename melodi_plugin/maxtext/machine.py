"""What a config leaves open and this machine answers: which hardware it is, and whether alone."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import yaml

from melodi_plugin.errors import UserError

# How MaxText's launchers for several processes begin; JAX must not be asked before they have met.
_GPU_JOB, _CPU_JOB = "JAX_COORDINATOR_IP", "JOB_INDEX"
_HARDWARE = ("tpu", "gpu", "gpu_multiprocess", "cpu")
# Where 0 or less ends in a traceback of JAX.
_SIZES = (
  *("per_device_batch_size", "max_target_length", "vocab_size", "base_emb_dim", "base_mlp_dim"),
  *("base_num_query_heads", "base_num_kv_heads", "head_dim"),
)
_DRAWS = "--xla_tpu_spmd_rng_bit_generator_unsafe"


def every_chip_draws_its_own() -> None:
  """Without this flag every TPU draws dropout's random bits for all rows of the batch.

  MaxText sets it after it has read its config; libtpu reads it when JAX is first asked what there
  is, which is earlier here.
  """
  flags = os.environ.get("LIBTPU_INIT_ARGS", "")
  if _DRAWS not in flags:
    os.environ["LIBTPU_INIT_ARGS"] = f"{flags} {_DRAWS}=true".strip()


def on_this_machine(argv: Sequence[str]) -> list[str]:
  """The command line with the keys that MaxText 0.2.5 would get wrong on a machine without TPU.

  MaxText takes every machine for a TPU if `hardware` is not set, and every CPU for one of many.
  """
  argv, more = list(argv), []
  hardware = written(argv, "hardware")
  if hardware not in (None, *_HARDWARE):  # MaxText would take it for a TPU
    raise ValueError(f"hardware={hardware} is none of {', '.join(_HARDWARE)}; set one of them.")
  if hardware is None:
    hardware = _found()
    if hardware != "tpu":
      more.append(f"hardware={hardware}")
      print(f"hardware is not set: {hardware}, as JAX finds here.", file=sys.stderr, flush=True)
  alone = written(argv, "skip_jax_distributed_system") is None and _CPU_JOB not in os.environ
  if hardware == "cpu" and alone:
    more.append("skip_jax_distributed_system=true")
  return argv + more


def check_sizes(config: Any, *keys: str) -> None:
  """Raises UserError if one of these keys is not above 0."""
  for key in keys:
    if getattr(config, key) <= 0:
      raise UserError(f"{key}={getattr(config, key)} leaves nothing to do; set it above 0.")


def check_fits(config: Any) -> None:
  """Raises UserError for a model that this machine cannot have, before MaxText or JAX fails."""
  from maxtext.utils import maxtext_utils  # after registration

  check_sizes(config, *_SIZES)
  if config.hardware.startswith("gpu") and jax.default_backend() != "gpu":
    raise UserError(
      f"hardware={config.hardware} is set, but JAX finds no GPU here; leave hardware out, or "
      "install JAX for one: uv run --extra cuda melodi …"
    )
  try:
    maxtext_utils.create_device_mesh(config)
  except AssertionError as error:
    raise UserError(f"{error}; change the keys ici_*_parallelism or dcn_*_parallelism.") from error


def written(argv: Sequence[str], key: str) -> Any:
  """The value that a user has set, in words, environment or files; None if only MaxText has."""
  for word in reversed(argv[1:]):  # the last one holds
    name, equals, value = word.partition("=")
    if equals and name == key:
      return value
  found = os.environ.get(f"M_{key.upper()}")
  if found is not None:
    return found
  return next((keys[key] for keys in _files(argv) if key in keys), None)


def check_files(argv: Sequence[str]) -> None:
  """Raises ValueError if a config, or one that it is based on, has no keys, or is based on itself.

  MaxText would read on for ever.
  """
  for _ in _files(argv):
    pass


def _files(argv: Sequence[str]) -> Iterator[dict[str, Any]]:
  """The config and those under it; MaxText's own, which lie beside no config of ours, left out."""
  path = argv[1] if len(argv) > 1 and argv[1].endswith(".yml") else ""
  read = set()
  while os.path.isfile(path):
    if os.path.realpath(path) in read:
      raise ValueError(f"{path} is based on itself; change its base_config.")
    read.add(os.path.realpath(path))
    with open(path, encoding="utf-8") as file:
      keys = yaml.safe_load(file) or {}
    if not isinstance(keys, dict):
      raise ValueError(f"{path} has no keys; write `key: value` in every line.")
    yield keys
    path = os.path.join(os.path.dirname(path), keys.get("base_config") or "")


def _found() -> str:
  """The hardware that JAX would use."""
  chosen = os.environ.get("JAX_PLATFORMS", "")
  if "tpu" in chosen or "proxy" in chosen or glob.glob("/dev/accel*") or glob.glob("/dev/vfio/?*"):
    return "tpu"
  if _GPU_JOB in os.environ:
    return "gpu"
  if _CPU_JOB in os.environ:
    return "cpu"
  return "gpu" if jax.default_backend() == "gpu" else "cpu"
