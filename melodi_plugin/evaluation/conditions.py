"""The conditions under which a model reads: what its memory does, which checkpoint it is."""

from typing import Any

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import is_melodi
from melodi_plugin.systems.table import remembers


def memory_of(config: Any) -> str:
  """What memory does while the model reads.

  'carried', 'carried on from <file>', 'reset at every window' or 'none'.
  """
  if not is_melodi(config) or not remembers(MelodiConfig.from_maxtext(config)):
    return "none"
  if config.melodi_memory_file:
    return f"carried on from {config.melodi_memory_file}"
  return "reset at every window" if config.melodi_reset_every_window else "carried"


def step_of(checkpoint: str) -> str:
  """The step of .../checkpoints/<step>/items, else the name of the folder."""
  parts = checkpoint.rstrip("/").split("/")
  return parts[-2] if parts[-1] == "items" and len(parts) > 1 else parts[-1]
