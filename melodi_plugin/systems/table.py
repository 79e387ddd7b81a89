"""The systems in one table: how a layer reads, what it remembers, and which parameters it has.

  system                  reader                          short-term  long-term
  melodi                  PaperReader                     Mixed       Queue of mixtures
  around a stock block    StockReader                     Mixed *     Queue of mixtures
  transformer_xl          LocalReader                     Cache       Nothing
  memorizing_transformer  DenseReader / RetrievingReader  Cache       Queue of tokens as they are
  block_recurrent         StateReader                     Cache       States

* MixedBesideCache if it has sinks or a cache, too.

A layer that does not have a long-term memory in its system has Nothing; the cache of a layer that
attends to its whole queue has no tokens.  `register_system` adds a row (docs/own_memory.md).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import BaseModel

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import (
  BLOCK_RECURRENT,
  MELODI,
  MEMORIZING,
  TRANSFORMER_XL,
  UserSystem,
  add_user_system,
)
from melodi_plugin.core import stack
from melodi_plugin.core.cell import LongMemory, ShortMemory
from melodi_plugin.core.memories.contents import Mixture, ProjectedMixture, Verbatim
from melodi_plugin.core.memories.nothing import Nothing
from melodi_plugin.core.memories.queue import Queue
from melodi_plugin.core.memories.rewritten import Rewritten
from melodi_plugin.core.memories.short_term import Cache, Mixed, MixedBesideCache
from melodi_plugin.core.memory import LayerMemory, Memory
from melodi_plugin.core.window_cell import WindowCell
from melodi_plugin.systems.cached.readers import DenseReader, LocalReader, RetrievingReader
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.paper.reader import PaperReader
from melodi_plugin.systems.recurrent.params import RecurrentLayerParams
from melodi_plugin.systems.recurrent.reader import StateReader, States

Make = Callable[[MelodiConfig, LayerSpec, Any], Any]  # the last is the dtype of activations


class Parts(NamedTuple):
  """What a layer is made of."""

  reader: Make
  short: Make
  long: Make
  params: type[Any]  # an NNX module: (config, spec, *, dtype, rngs) with a method `parameters`


def mixtures(config: MelodiConfig, spec: LayerSpec, dtype: Any) -> Queue:
  """MELODI's long-term queue."""
  kind = ProjectedMixture if config.long_term_pairs else Mixture
  contents = kind(config, "long_mixer", spec.increment, False, dtype)
  return Queue(config, spec, contents, dtype=dtype)


def verbatim(config: MelodiConfig, spec: LayerSpec, dtype: Any) -> Queue:
  """A queue of tokens as they are, from which nothing is learned once their segment is over."""
  contents = Verbatim(config, spec.increment, dtype)
  # Stored keys and values are no function of the parameters anyway.
  return Queue(config, spec, contents, learns=config.stores_pairs, dtype=dtype)


def states(config: MelodiConfig, spec: LayerSpec, dtype: Any) -> Rewritten:
  """The states of a recurrent layer."""
  return Rewritten(States(config, spec), dtype)


def _melodi(config: MelodiConfig, spec: LayerSpec) -> Parts:
  short = MixedBesideCache if spec.verbatim_tokens else Mixed
  return Parts(PaperReader, short, mixtures if spec.increment else Nothing, PaperLayerParams)


def _transformer_xl(config: MelodiConfig, spec: LayerSpec) -> Parts:
  return Parts(LocalReader, Cache, Nothing, PaperLayerParams)


def _memorizing(config: MelodiConfig, spec: LayerSpec) -> Parts:
  if not spec.increment:
    return _transformer_xl(config, spec)
  reader = RetrievingReader if config.neighbors.count else DenseReader
  return Parts(reader, Cache, verbatim, PaperLayerParams)


def _block_recurrent(config: MelodiConfig, spec: LayerSpec) -> Parts:
  if spec.increment:
    return Parts(StateReader, Cache, states, RecurrentLayerParams)
  if config.recurrence.feedback:
    return Parts(StateReader, Cache, Nothing, RecurrentLayerParams)
  return _transformer_xl(config, spec)


SYSTEMS: dict[str, Callable[[MelodiConfig, LayerSpec], Parts]] = {
  MELODI: _melodi,
  TRANSFORMER_XL: _transformer_xl,
  MEMORIZING: _memorizing,
  BLOCK_RECURRENT: _block_recurrent,
}


def register_system(
  name: str,
  parts: Callable[[MelodiConfig, LayerSpec], Parts],
  *,
  keys: type[BaseModel] = BaseModel,
  layer: Callable[[MelodiConfig, int], LayerSpec] | None = None,
) -> None:
  """Puts a memory of your own behind `decoder_block: name` (docs/own_memory.md).

  Args:
    name: a name that no other system and no block of MaxText has.
    parts: what a layer is made of; called once per run of layers with equal specs.
    keys: keys of a config that it adds, with defaults; `parts` finds them in `config.own`.
    layer: what layer `index` keeps and mixes as MELODI's layers do; by default nothing.
      `MelodiConfig.layer_by_keys` reads MELODI's own keys.

  Raises:
    ValueError: the name or a key is taken, or a key has no default.
  """
  if not callable(parts):
    raise ValueError(f"`parts` of the system {name} must be a function of a config and a spec.")
  add_user_system(UserSystem(name, keys, layer))
  SYSTEMS[name] = parts


def parts(config: MelodiConfig, spec: LayerSpec) -> Parts:
  """The parts of a layer.  A stock block has a reader and parameters of its own (`stock/`)."""
  own = SYSTEMS[config.system](config, spec)
  if not isinstance(own, Parts) or not all(map(callable, own)):
    raise ValueError(
      f"`parts` of the system {config.system} must return Parts(reader, short, long, params), all "
      f"of them callable, not {own!r}."
    )
  return own


def make_cell(
  config: MelodiConfig, spec: LayerSpec, dtype: Any = jnp.float32, reader: Any = None
) -> WindowCell:
  """The cell of a layer; `reader` takes the place of the system's own."""
  own = parts(config, spec)
  if reader is None:
    reader = own.reader(config, spec, dtype)
  short: ShortMemory = own.short(config, spec, dtype)
  long: LongMemory = own.long(config, spec, dtype)
  return WindowCell(config, spec, reader, short, long, dtype)


def stored(config: MelodiConfig) -> list[LayerMemory]:
  """What every layer of a stack stores between segments, from the bottom up."""
  layers = [(parts(config, spec), spec) for spec in config.layers]
  return [
    LayerMemory(own.short(config, spec, None).stored, own.long(config, spec, None).stored)
    for own, spec in layers
  ]


def empty_memory(config: MelodiConfig, batch: int, dtype: Any = jnp.float32) -> Memory:
  """The memory of `batch` rows that have read nothing."""
  return stack.empty(stored(config), batch, dtype)


def remembers(config: MelodiConfig) -> bool:
  """Whether any layer stores anything."""
  return any(map(stack.remembers, stored(config)))


def stored_numbers(config: MelodiConfig) -> tuple[int, int]:
  """Numbers that a row stores, in short-term and in long-term memory."""

  def numbers(name: str) -> int:
    trees = [getattr(layer, name) for layer in stored(config)]
    return sum(leaf.size for leaf in jax.tree.leaves(trees))

  return numbers("short"), numbers("long")
