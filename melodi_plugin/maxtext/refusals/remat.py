"""The remat policies of MaxText, by their names."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
from maxtext.configs.types import RematPolicy
from maxtext.layers.nnx_decoders import NNXDecoder

from melodi_plugin.core.schedules.walk import Wrap

POLICIES = ", ".join(["none", *(own.value for own in RematPolicy if own != RematPolicy.CUSTOM)])


def remat_named(name: str) -> Wrap:
  """What one of MaxText's remat policies wraps around every cell of scanned layers.

  Raises:
    ValueError: if MaxText has none of this name, or one that needs more keys.
  """
  if name == "none":
    return lambda function: function
  # All that MaxText asks a decoder for; the names of a policy do not depend on it.
  decoder: Any = SimpleNamespace(config=SimpleNamespace(remat_policy=name, scan_layers=True))
  decoder.minimal_policy = functools.partial(NNXDecoder.minimal_policy, decoder)
  try:
    policy = NNXDecoder.get_remat_policy(decoder)
  except (AssertionError, AttributeError):
    raise ValueError(
      f"{name} is no remat policy of MaxText that stands alone; take {POLICIES}."
    ) from None
  return functools.partial(jax.checkpoint, policy=policy, prevent_cse=False)


def unknown_remat(name: str | None) -> bool:
  """Whether no model can be made with it."""
  if name in (None, RematPolicy.CUSTOM.value):
    return False
  try:
    remat_named(name)
  except ValueError:
    return True
  return False
