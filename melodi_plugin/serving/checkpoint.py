"""A checkpoint with its tokenizer, in an engine; and the files of memory that belong to it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax

from melodi_plugin.checkpoints import fingerprint, memory_file
from melodi_plugin.checkpoints.memory_file import Identity, SavedRow
from melodi_plugin.config.settings import as_written
from melodi_plugin.config.systems import is_melodi
from melodi_plugin.core import decoding
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.maxtext.loading import load, mesh_of, with_rows
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.maxtext.weights import find_checkpoint
from melodi_plugin.serving.engine import Engine, Row

# Keys of MaxText that decide what keys and values of a stock block mean.
_ROTARY = ("rope_type", "rope_max_timescale", "rope_min_timescale", "rope_linear_scaling_factor")


class Checkpoint:
  """A model that reads and writes text.

  Attributes:
    config: MaxText's.
    tokenizer: of the config.
    engine: with the model in it.
  """

  def __init__(self, config: Any, slots: int, *, scores: bool = False):
    """Loads the one checkpoint of `load_parameters_path`; raises ValueError as `loading.load`."""
    if not is_melodi(config):
      raise ValueError(
        f"decoder_block={as_written(config.decoder_block)} is a decoder without memory, and this "
        "reads with memory only; set decoder_block=melodi or another system of melodi_plugin."
      )
    path = find_checkpoint(config.load_parameters_path)
    # Rows of training are none of these; the model is only to be built.
    self.config = with_rows(config, jax.device_count())
    self.tokenizer = Tokenizer(config)
    mesh = mesh_of(self.config)
    model = PreparedModel(self.config, load(self.config, mesh, path), mesh)
    self.engine = Engine(model, slots, scores=scores)

  @functools.cached_property
  def identity(self) -> Identity:
    """What a memory file must agree with."""
    model = self.engine.model
    weights, config = model.weights, self.config
    names = [field.name for field in dataclasses.fields(model.melodi)]
    settings = {name: getattr(model.melodi, name) for name in names}
    settings |= {"dtype": str(config.dtype), "melodi_memory_dtype": config.melodi_memory_dtype}
    settings |= {name: str(getattr(config, name)) for name in _ROTARY if hasattr(config, name)}
    with model.on_mesh():
      own = fingerprint.of_model(model.sections(weights), (weights.summary, weights.ends))
    return Identity(own, self.tokenizer.fingerprint(), settings)

  def save_memory(
    self,
    path: str,
    row: Row,
    pending: Sequence[int] = (),
    *,
    title: str = "",
    compact: bool = False,
  ) -> None:
    """Writes a row and the tokens that it has still to read; see `memory_file.save`."""
    saved = SavedRow(row.state, row.tokens, tuple(pending), row.prefix.hex(), title)
    memory_file.save(path, saved, self.identity, self._runs, compact=compact)

  def load_memory(self, path: str) -> tuple[Row, SavedRow]:
    """A row, and what else the file says of it; raises ValueError as `memory_file.load`."""
    saved = memory_file.load(path, self.identity, self.engine.programs.row, self._runs)
    state = saved.rows
    if state.recall is None:
      state = state._replace(recall=self._recall(state))
    return Row(state, saved.tokens_read, bytes.fromhex(saved.prefix)), saved

  @property
  def _runs(self) -> list[Any]:
    model = self.engine.model
    return [section.run for section in model.sections(model.weights)]

  def _recall(self, state: decoding.OpenRows) -> Any:
    """Keys and values of memory that a file has left out."""
    model = self.engine.model

    @jax.jit
    def make(weights: Any, memory: Any, held: Any) -> Any:
      return decoding.recall(model.sections(weights), memory, held)

    with model.on_mesh():
      return jax.device_get(make(model.weights, state.memory, state.held))
