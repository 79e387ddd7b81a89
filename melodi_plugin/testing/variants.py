"""Every kind of memory that a config can ask for, in tiny sizes."""

from typing import Any

from melodi_plugin.config.layers import Neighbors, Recurrence
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT, MEMORIZING, TRANSFORMER_XL
from melodi_plugin.testing.tiny import TINY

# MELODI: changes of `tiny_config`.
VARIANTS: dict[str, dict[str, Any]] = {
  "paper": {},
  "summary differs from short": dict(short_term_tokens=3),
  "no branching": dict(summary_branching=False),
  "no short-term memory": dict(short_term_tokens=0),
  "no summary": dict(summary_tokens=0),
  "no memory": dict(summary_tokens=0, short_term_tokens=0, long_term_layers=()),
  "no increment": dict(long_term_increment=0),
  "no queue": dict(long_term_windows=0),
  "all layers short": dict(num_layers=3, short_term_layers=(0, 1, 2), long_term_layers=()),
  "two long-term layers": dict(num_layers=3, long_term_layers=(0, 2), short_term_layers=(1, 2)),
  "queue shorter than segment": dict(long_term_windows=2),
  "empty slots masked": dict(mask_empty_slots=True),
  "temperature of its own": dict(own_long_temperature=True),
  "no position": dict(position="none"),
  "one window": dict(window_length=16),
  "windows of one token": dict(window_length=1, summary_tokens=1, short_term_tokens=1),
}
# The other systems: arguments of `tiny_baseline`.
_MEMORY: dict[str, Any] = dict(system=MEMORIZING, memory_layers=(1,), queue_windows=3)
_RECURRENT: dict[str, Any] = dict(system=BLOCK_RECURRENT, memory_layers=(1,), states=6)
SYSTEMS: dict[str, dict[str, Any]] = {
  "transformer_xl": dict(system=TRANSFORMER_XL),
  "transformer_xl without positions": dict(system=TRANSFORMER_XL, position="none"),
  "transformer_xl with a long cache": dict(system=TRANSFORMER_XL, cache_tokens=20),
  "transformer_xl with sinks": dict(system=TRANSFORMER_XL, cache_tokens=3, sink_tokens=4),
  "transformer_xl as in the official code": dict(system=TRANSFORMER_XL, reference_defects=True),
  "whole queue": _MEMORY,
  "whole queue as in the official code": _MEMORY | dict(reference_defects=True),
  "neighbors": _MEMORY | dict(neighbors=Neighbors(4)),
  "exact neighbors": _MEMORY | dict(neighbors=Neighbors(4, exact=True)),
  "neighbors as in the official code": _MEMORY
  | dict(neighbors=Neighbors(4), reference_defects=True),
  "states as in the official code": _RECURRENT | dict(reference_defects=True),
  "two recurrent layers": _RECURRENT | dict(memory_layers=(0, 2)),
  "feedback": _RECURRENT | dict(recurrence=Recurrence(feedback=True)),
} | {
  f"{gate} {cell}": _RECURRENT | dict(recurrence=Recurrence(gate, cell))
  for gate in ("bias", "lstm")
  for cell in ("skip", "dual", "single")
}


def tiny_baseline(**changes: Any) -> MelodiConfig:
  """Another system, in the sizes of `tiny_config`."""
  sizes = ("num_layers", "emb_dim", "num_heads", "head_dim", "mlp_dim", "window_length")
  return MelodiConfig.baseline(**{**{size: TINY[size] for size in sizes}, **changes})
