"""MELODI memory for MaxText.

A long document is read in short windows.  After every window its layers keep a few compressed
tokens: short-term memory, rewritten at every window, in every layer; long-term memory, a queue of
what every window adds, in a middle layer.  `decoder_block: melodi` in a MaxText YAML turns this on;
`transformer_xl`, `memorizing_transformer` and `block_recurrent` are what it is compared with.

The rooms, in the order in which to read them; each file imports only what stands above it:

  errors        UserError: one sentence, status 2
  restoring     arrays of checkpoints that cannot be read: one sentence, and nothing after it
  output/       pictures, tables and files, as they look everywhere
  config/       what a user asks for: the keys, and the sizes derived from them
  core/         the arithmetic, and the one interface through which every window is read
  cost/         parameters, memory and matrix products in closed form
  training/     the paper's optimizer and schedule; progress
  data/         documents -> windows -> sticky batch rows; text -> corpora
  systems/      what a layer of each system is, and its parameters
  reference/    the same in slow, obvious loops: the truth of the tests
  maxtext/      the only room that sees MaxText
  conformance/  what must hold for every system, ours and yours
  checkpoints/  stock checkpoints and those with memory; GGUF files; memory files
  serving/      text from a checkpoint: rows in slots, token by token
  server/       the same over HTTP, for many at once, kept on disk
  bench/        how fast it is, and how fast it writes
  evaluation/   whole documents read by a checkpoint; recall probes
  compare/      several configs trained and evaluated alike, side by side
  cli/          `melodi VERB …`
  testing/      small models and stand-ins for tests; not in the wheel
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from melodi_plugin.config.keys import MelodiKeys
  from melodi_plugin.config.model import MelodiConfig
  from melodi_plugin.maxtext.registration import UnsupportedMaxText, register, unregister
  from melodi_plugin.systems.table import register_system

__all__ = [
  "MelodiConfig",
  "MelodiKeys",
  "UnsupportedMaxText",
  "register",
  "register_system",
  "unregister",
]

# Imported when first asked for: `melodi --help` must wait for neither JAX nor MaxText.
_HOMES = {
  "MelodiKeys": "config.keys",
  "MelodiConfig": "config.model",
  "UnsupportedMaxText": "maxtext.registration",
  "register": "maxtext.registration",
  "register_system": "systems.table",
  "unregister": "maxtext.registration",
}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f"module {__name__} has no attribute {name}")
  return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
