"""The decoder around MaxText's own layers: `melodi_base_block: llama2` and others.

MaxText makes the layers, under its own names, so a stock checkpoint fits as it is; what memory adds
lies beside them.
"""

import functools
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from melodi_plugin.config.layers import Run
from melodi_plugin.config.parameter_names import MEMORY_PREFIX
from melodi_plugin.core.stack import Section
from melodi_plugin.maxtext.decoders.base import MelodiDecoder
from melodi_plugin.maxtext.decoders.stock_block import (
  PARTS,
  LayerAt,
  MaxTextBlock,
  gather,
  layers_of,
)
from melodi_plugin.systems.params import summary_embeddings
from melodi_plugin.systems.stock.params import StockMemoryParams, table_init
from melodi_plugin.systems.stock.reader import StockReader
from melodi_plugin.systems.table import make_cell


class StockDecoder(MelodiDecoder):
  """MaxText's layers with memory.

  Attributes:
    layers, layers_{i}, ...: MaxText's own.
    memory_layers_{i} or memory_layers_{i}_to_{j}: what memory adds to a layer, or to a run.
  """

  def _init_decoder_layers(self, decoder_block_classes, rngs: nnx.Rngs, mesh) -> None:
    """MaxText's layers, and what memory adds to them."""
    super()._init_decoder_layers(decoder_block_classes, rngs, mesh)
    starts = {
      "offset": self.config.melodi_memory_offset,
      "gate": self.config.melodi_memory_gate,
    }
    for run in self.runs:
      make = functools.partial(StockMemoryParams, self.melodi, run.spec, **starts)
      setattr(self, self.memory_name(run), self.make_run(run, make, rngs))
    if self.melodi.summary_tokens:
      self.summary_embeddings = summary_embeddings(
        self.melodi, table_init, dtype=jnp.float32, rngs=rngs
      )

  def without_memory(
    self,
    shared_embedding: nnx.Module,
    tokens: jax.Array,
    positions: jax.Array,
    segment_ids: jax.Array,
  ) -> jax.Array:
    """Logits (B, T, V) of MaxText's own decoder with these layers: full attention, no windows."""
    read = super(MelodiDecoder, self).__call__
    logits: Any
    logits, *_ = read(shared_embedding, tokens, positions, segment_ids, deterministic=True)
    return logits

  def memory_name(self, run: Run) -> str:
    """The attribute that holds what memory adds to a run."""
    return MEMORY_PREFIX + self.name_of(run).removeprefix("layers_")

  def sections(self) -> list[Section]:
    """Runs of layers that are equal in memory and in what their attentions do."""
    melodi, config = self.melodi, self.config
    parts, layers = PARTS[melodi.base_block], layers_of(self, melodi.base_block)
    memories = [
      LayerAt(getattr(self, self.memory_name(run)), i if config.scan_layers else None)
      for run in self.runs
      for i in range(run.length)
    ]

    def kind(index: int) -> tuple:
      alone = None if config.scan_layers else index
      return melodi.layers[index], layers[index].attentions(parts), alone

    sections = []
    for (spec, attentions, _), group in groupby(range(len(layers)), key=kind):
      indices = list(group)
      span = slice(indices[0], indices[-1] + 1)
      graphdef, arrays = gather(layers[span], config.param_scan_axis)
      memory = nnx.merge(*gather(memories[span], config.param_scan_axis))
      block = MaxTextBlock(graphdef, parts, attentions, config.rope_type.startswith("yarn"))
      reader = StockReader(melodi, spec, config.dtype, block)
      cell = make_cell(melodi, spec, config.dtype, reader)
      run = Run(spec, span.start, len(indices))
      sections.append(Section(run, cell, memory.parameters(arrays)))
    return sections
