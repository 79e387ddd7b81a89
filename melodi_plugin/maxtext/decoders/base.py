"""What the decoders that MaxText builds for MELODI share: they own the memory variables.

Embedding, final norm and output head are MaxText's own; the walk over layers and windows is ours.
The memory is state of the model: the stock train step returns it, Orbax saves it, and it is sharded
by its logical axes.  In MaxText's modes of inference the state is that of rows which may be
anywhere in their windows.  `paper` and `stock` say what the layers are.
"""

import abc
import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from maxtext.common.common_types import MODEL_MODE_PREFILL, MODEL_MODE_TRAIN
from maxtext.layers import nnx_scan
from maxtext.layers.nnx_decoders import NNXDecoder
from maxtext.utils import max_utils, maxtext_utils, sharding

from melodi_plugin.config.layers import Run
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import system_of
from melodi_plugin.core.decoding import begin
from melodi_plugin.core.memory import Memory
from melodi_plugin.core.schedules.segment import read_segment
from melodi_plugin.core.stack import Section
from melodi_plugin.maxtext.decoders.cache import CachedRows
from melodi_plugin.maxtext.decoders.drawn import HIDDEN
from melodi_plugin.maxtext.decoders.local import places
from melodi_plugin.maxtext.decoders.microbatch import MICROBATCH, part, with_part
from melodi_plugin.maxtext.decoders.state import (
  MelodiMemory,
  by_name,
  empty_variables,
  memory_axes,
  row_axis,
  with_names,
)
from melodi_plugin.maxtext.decoders.teacher import STUDENT
from melodi_plugin.maxtext.refusals.blocks import check, check_mesh, check_serving
from melodi_plugin.systems.table import empty_memory

_TOKENS = ("activation_batch", "activation_length", "activation_embed")
_FROM_ENGINE = {"previous_chunk", "slot"}  # known to the rows, which say where they are


class MelodiDecoder(NNXDecoder):
  """A stack with memory in the place of MaxText's decoder.

  Attributes:
    summary_embeddings: the learned table (U, D), absent if U = 0.
    memory_short, memory_long, memory_windows: see `Memory`; absent where they would be empty, and
      in modes of inference.
    rows: in modes of inference, see `CachedRows`.
  """

  def __init__(self, config, mesh, quant=None, model_mode=MODEL_MODE_TRAIN, *, rngs: nnx.Rngs):
    check(config)
    if model_mode != MODEL_MODE_TRAIN:
      check_serving(config)
    self.melodi = MelodiConfig.from_maxtext(config)
    self.mode = model_mode
    # In modes of inference MaxText's layers would make caches for all tokens of a text.
    super().__init__(config, mesh, quant, MODEL_MODE_TRAIN, rngs=rngs)
    if model_mode == MODEL_MODE_TRAIN:
      self._init_memory()
    else:
      self._init_rows()

  def _init_memory(self) -> None:
    batch = self.config.global_batch_size_to_train_on  # of all microbatches
    axes = memory_axes(self.melodi)
    dtype = self.config.melodi_memory_dtype
    for name, array in empty_variables(self.melodi, batch, dtype).items():
      setattr(self, name, MelodiMemory(array, out_sharding=axes[name]))

  def _init_rows(self) -> None:
    batch, _ = max_utils.get_batch_seq_len_for_mode(self.config, self.mode)
    dtype = jnp.dtype(self.config.melodi_memory_dtype)
    like = jax.eval_shape(
      lambda: begin(self.sections(), empty_memory(self.melodi, int(batch), dtype))
    )
    self.rows = CachedRows(like, prefill=self.mode == MODEL_MODE_PREFILL)

  @abc.abstractmethod
  def sections(self) -> list[Section]:
    """The runs with their parameters; layers are the first axis of every leaf."""

  # -- Parameters ----------------------------------------------------------------------------------

  @property
  def runs(self) -> tuple[Run, ...]:
    """Runs of layers that have memory of the same kind, from the bottom up."""
    return self.melodi.runs(self.config.scan_layers)

  def name_of(self, run: Run) -> str:
    """The attribute that holds the parameters of a run: one layer, or a scanned stack."""
    last = run.first + run.length - 1
    return f"layers_{run.first}_to_{last}" if self.config.scan_layers else f"layers_{run.first}"

  def make_run(self, run: Run, make: Callable[..., nnx.Module], rngs: nnx.Rngs) -> Any:
    """The module of a run, from a function of `rngs` that makes one layer."""
    if not self.config.scan_layers:
      return make(rngs=rngs)
    return nnx_scan.create_scanned_layers(
      lambda rngs: make(rngs=rngs),
      length=run.length,
      param_scan_axis=self.config.param_scan_axis,
      metadata_axis_name="layers",
      rngs=rngs,
    )

  # -- The stack -----------------------------------------------------------------------------------

  def memory(self, batch: int) -> Memory:
    """The memory of `batch` rows, before this segment."""
    number = self._given(MICROBATCH)

    def kept(name: str, empty: jax.Array) -> jax.Array:
      variable = getattr(self, name, None)
      array = empty if variable is None else variable[...]
      if variable is not None and number is not None:
        array = part(array, batch, row_axis(name), number)
      if array.shape != empty.shape:
        raise ValueError(
          f"a batch of {batch} rows cannot use the memory of {self.memory_windows.shape[0]} rows: "
          "memory belongs to the rows of the training batch, so keep per_device_batch_size times "
          "gradient_accumulation_steps times the number of devices."
        )
      return array

    empty = empty_memory(self.melodi, batch, jnp.dtype(self.config.melodi_memory_dtype))
    return with_names(empty, kept)

  def keep(self, memory: Memory) -> None:
    """Stores the memory after this segment."""
    axes, number = memory_axes(self.melodi), self._given(MICROBATCH)
    for name, array in by_name(memory).items():
      variable = getattr(self, name, None)
      if variable is not None:
        if number is not None:
          array = with_part(variable[...], array, row_axis(name), number)
        variable[...] = self.shard(array, axes[name])

  def _given(self, name: str) -> jax.Array | None:
    """What the loss of a training step has left here for this call."""
    variable = getattr(self, name, None)
    return None if variable is None else variable[...]

  def shard(self, array: jax.Array, axes: tuple[str | None, ...]) -> Any:
    """MaxText's sharding of an array with these logical axes."""
    return sharding.maybe_shard_with_logical(array, axes, self.mesh, self.config.shard_mode)

  @property
  def _recomputes(self) -> bool:
    """Whether the backward pass computes anything again."""
    return self.config.remat_policy not in (None, "none")  # MaxText reads the word none as null

  def _remat(self, function):
    """MaxText's remat policy, around every cell."""
    if not self._recomputes:
      return function
    prevent_cse = maxtext_utils.should_prevent_cse_in_remat(self.config)
    return jax.checkpoint(function, policy=self.get_remat_policy(), prevent_cse=prevent_cse)

  def summary(self) -> jax.Array:
    """The learned summary tokens (U, D)."""
    if self.melodi.summary_tokens:
      return self.summary_embeddings[...]
    return jnp.zeros((0, self.melodi.emb_dim), self.config.dtype)

  def read(
    self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array | None, deterministic: bool
  ) -> jax.Array:
    """Reads one segment of every row and keeps what it leaves in memory; x is (B, T, D)."""
    config, batch = self.config, x.shape[0]
    if segment_ids is None:
      segment_ids = jnp.ones_like(positions)
    dropout_rngs = None if deterministic else self.dropout.rngs  # also None at rate 0
    rng = None if dropout_rngs is None else dropout_rngs.dropout()
    sections = self.sections()
    where = places(self, sections, batch)
    if where is None:
      check_mesh(self.mesh)
    weights = where.weights(self.get_remat_policy(), self._recomputes) if where else None

    def walk(params, summary, rng, memory, by_row):
      x, positions, segment_ids, hidden = by_row
      return read_segment(
        [own._replace(params=p) for own, p in zip(sections, params, strict=True)],
        self.melodi,
        x,
        summary,
        memory,
        positions,
        segment_ids,
        reset_every_window=config.melodi_reset_every_window,
        hidden=hidden,
        schedule=config.melodi_schedule,
        rng=rng,
        remat=self._remat,
        weights=weights,
      )

    params, by_row = [own.params for own in sections], (self.shard(x, _TOKENS), positions)
    x, memory = (where.mapped(walk) if where else walk)(
      params, self.summary(), rng, self.memory(batch), (*by_row, segment_ids, self._given(HIDDEN))
    )
    self.keep(memory)
    return self.shard(x, _TOKENS)

  def read_on(self, x: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """Reads the next tokens of rows in the middle of their windows; x is (B, t, D)."""
    if self.mode == MODEL_MODE_PREFILL:
      valid = jnp.ones(x.shape[:2], bool) if segment_ids is None else segment_ids > 0
      return self.rows.prefill(self.sections(), self.summary(), x, valid)
    return self.rows.step(self.sections(), self.summary(), x)

  def __call__(
    self,
    shared_embedding: nnx.Module,
    decoder_input_tokens: jax.Array,
    decoder_positions: jax.Array,
    decoder_segment_ids: jax.Array | None = None,
    deterministic: bool = False,
    model_mode: str = MODEL_MODE_TRAIN,
    kv_caches: Any = None,
    **unused: Any,
  ):
    """MaxText's decoder call: tokens (B, T) -> (logits (B, T, V), hidden (B, T, D), kv_caches)."""
    trains, block = self.mode == MODEL_MODE_TRAIN, system_of(self.config)
    if model_mode != self.mode:
      raise ValueError(
        f"decoder_block: {block} was made for MaxText's {self.mode!r} mode and cannot run in "
        f"{model_mode!r}, for which it has no state; make the model with model_mode={model_mode!r}."
      )
    given = {name for name, value in unused.items() if value is not None}
    given = sorted(given if trains else given - _FROM_ENGINE)
    if given:
      raise NotImplementedError(f"decoder_block: {block} does not know what to do with {given[0]}.")
    precision = self.config.matmul_precision.value
    as_set = contextlib.nullcontext()
    if precision != "default":
      as_set = jax.default_matmul_precision(precision)
    with as_set:
      x = self._apply_embedding(
        shared_embedding,
        decoder_input_tokens,
        decoder_positions,
        deterministic=True,  # the paper drops nothing here, and stock blocks nothing at all
        model_mode=model_mode,
      )
      if trains:
        hidden = self.read(x, decoder_positions, decoder_segment_ids, deterministic)
      else:
        hidden = self.read_on(x, decoder_segment_ids)
      if trains and self.config.num_vocab_tiling > 1:
        self.sow(nnx.Intermediate, "hidden_states", hidden)
        return None, hidden, kv_caches
      logits = self.apply_output_head(shared_embedding, hidden, deterministic, model_mode)
      if trains and self.config.melodi_distill_weight:
        setattr(self, STUDENT, nnx.Intermediate(logits))
    return logits, hidden, kv_caches
