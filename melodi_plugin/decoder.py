"""The decoder that MaxText builds for `decoder_block: melodi`; it owns the memory variables.

Embedding, final norm and output head are MaxText's own; the layer stack is ours.  The memory is
state of the model: the stock train step returns it, Orbax saves it, and it is sharded by its
logical axes.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from maxtext.common.common_types import MODEL_MODE_TRAIN
from maxtext.layers import nnx_scan
from maxtext.layers.nnx_decoders import NNXDecoder
from maxtext.layers.normalizations import RMSNorm
from maxtext.utils import max_utils, maxtext_utils, sharding

from melodi_plugin.attention import NORM_EPSILON
from melodi_plugin.config import MelodiConfig, Run
from melodi_plugin.layers.paper import PaperLayerParams, summary_embeddings
from melodi_plugin.memory import Memory, empty_memory
from melodi_plugin.paper_cell import PaperCell
from melodi_plugin.refusals import check
from melodi_plugin.schedule import Stage, read_segment
from melodi_plugin.segments import plan_windows

_TOKENS = ("activation_batch", "activation_length", "activation_embed")
_LOGITS = ("activation_embed_and_logits_batch", "activation_length", "activation_vocab")
MEMORY_AXES = {
  "short": (None, "activation_batch", None, "activation_embed"),
  "long": (None, "activation_batch", None, "activation_embed"),
  "windows": ("activation_batch",),
}


class MelodiMemory(nnx.BatchStat):
  """Memory as model state.

  A BatchStat, because MaxText carries, saves and restores it, and does not count it as a weight
  that a parameter checkpoint must hold.
  """


class MelodiDecoder(NNXDecoder):
  """A MELODI stack in the place of MaxText's decoder.

  Attributes:
    layers_{i} or layers_{i}_to_{j}: parameters of one layer, or of a scanned run of equal layers.
    summary_embeddings: the learned table (U, D), absent if U = 0.
    memory_short, memory_long, memory_windows: see `Memory`; absent where they would be empty.
  """

  def __init__(self, config, mesh, quant=None, model_mode=MODEL_MODE_TRAIN, *, rngs: nnx.Rngs):
    check(config)
    if model_mode != MODEL_MODE_TRAIN:
      raise NotImplementedError(
        f"decoder_block: melodi cannot run in MaxText's {model_mode!r} mode yet; read documents "
        "with `python -m melodi_plugin.evaluate`."
      )
    self.melodi = MelodiConfig.from_maxtext(config)
    super().__init__(config, mesh, quant, model_mode, rngs=rngs)
    self._init_memory()

  # -- What MaxText's constructor calls ------------------------------------------------------------

  def get_decoder_layers(self) -> list:
    """MaxText's layer classes: none, see `_init_decoder_layers`."""
    return []

  def get_norm_layer(self, num_features: int, rngs: nnx.Rngs):
    """The final norm, with the epsilon of the paper's other norms."""

    def make(**arguments: Any) -> RMSNorm:
      return RMSNorm(num_features, **{**arguments, "epsilon": NORM_EPSILON}, rngs=rngs)

    return make

  def _init_decoder_layers(self, decoder_block_classes, rngs: nnx.Rngs, mesh) -> None:
    """Creates the parameters of every run."""
    dtype = self.config.weight_dtype
    for run in self.runs:
      make = functools.partial(_make_layer, self.melodi, run.spec, dtype)
      if self.config.scan_layers:
        layer = nnx_scan.create_scanned_layers(
          make,
          length=run.length,
          param_scan_axis=self.config.param_scan_axis,
          metadata_axis_name="layers",
          rngs=rngs,
        )
      else:
        layer = make(rngs)
      setattr(self, self._name(run), layer)
    if self.melodi.summary_tokens:
      self.summary_embeddings = summary_embeddings(self.melodi, dtype=dtype, rngs=rngs)

  def _init_memory(self) -> None:
    batch, _ = max_utils.get_batch_seq_len_for_mode(self.config, self.model_mode)
    empty = empty_memory(self.melodi, batch, jnp.dtype(self.config.melodi_memory_dtype))
    for field, array in empty._asdict().items():
      if array.size:  # Orbax does not save arrays without elements
        variable = MelodiMemory(array, out_sharding=MEMORY_AXES[field])
        setattr(self, f"memory_{field}", variable)

  # -- The stack -----------------------------------------------------------------------------------

  @property
  def runs(self) -> tuple[Run, ...]:
    """Runs of equal layers, from the bottom up."""
    return self.melodi.runs(self.config.scan_layers)

  def _name(self, run: Run) -> str:
    last = run.first + run.length - 1
    return f"layers_{run.first}_to_{last}" if self.config.scan_layers else f"layers_{run.first}"

  def stages(self) -> list[Stage]:
    """The runs with their parameters; layers are the first axis of every leaf."""
    stages = []
    for run in self.runs:
      params = getattr(self, self._name(run)).parameters()
      axis = self.config.param_scan_axis
      if self.config.scan_layers:
        params = jax.tree.map(lambda leaf, axis=axis: jnp.moveaxis(leaf, axis, 0), params)
      else:
        params = jax.tree.map(lambda leaf: leaf[None], params)
      stages.append(Stage(run, PaperCell(self.melodi, run.spec, self.config.dtype), params))
    return stages

  def memory(self, batch: int) -> Memory:
    """The memory of `batch` rows, before this segment."""
    empty = empty_memory(self.melodi, batch, jnp.dtype(self.config.melodi_memory_dtype))
    fields = {}
    for field, array in empty._asdict().items():
      variable = getattr(self, f"memory_{field}", None)
      fields[field] = array if variable is None else variable[...]
      if fields[field].shape != array.shape:
        raise ValueError(
          f"a batch of {batch} rows cannot use the memory of {self.memory_windows.shape[0]} rows: "
          "memory belongs to the rows of the training batch, so keep per_device_batch_size and the "
          "number of devices."
        )
    return Memory(**fields)

  def keep(self, memory: Memory) -> None:
    """Stores the memory after this segment."""
    for field, array in memory._asdict().items():
      variable = getattr(self, f"memory_{field}", None)
      if variable is not None:
        variable[...] = self._shard(array, MEMORY_AXES[field])

  def _shard(self, array: jax.Array, axes: tuple[str | None, ...]) -> Any:
    return sharding.maybe_shard_with_logical(array, axes, self.mesh, self.config.shard_mode)

  def _remat(self, function):
    """MaxText's remat policy, around every cell."""
    if self.config.remat_policy in (None, "none"):  # MaxText reads the word none as null
      return function
    prevent_cse = maxtext_utils.should_prevent_cse_in_remat(self.config)
    return jax.checkpoint(function, policy=self.get_remat_policy(), prevent_cse=prevent_cse)

  def read(
    self, x: jax.Array, positions: jax.Array, segment_ids: jax.Array | None, deterministic: bool
  ) -> jax.Array:
    """Reads one segment of every row and keeps what it leaves in memory; x is (B, T, D)."""
    config, batch = self.config, x.shape[0]
    if segment_ids is None:
      segment_ids = jnp.ones_like(positions)
    memory = self.memory(batch)
    windows = plan_windows(
      positions,
      segment_ids,
      memory.windows,
      window_length=self.melodi.window_length,
      queue_windows=self.melodi.long_term_windows,
      reset_every_window=config.melodi_reset_every_window,
    )
    summary = jnp.zeros((0, x.shape[2]), x.dtype)
    if self.melodi.summary_tokens:
      summary = self.summary_embeddings[...]
    dropout_rngs = None if deterministic else self.dropout.rngs  # also None at rate 0
    x, memory = read_segment(
      self.stages(),
      self.melodi,
      self._shard(x, _TOKENS),
      summary,
      memory,
      windows,
      schedule=config.melodi_schedule,
      key=None if dropout_rngs is None else dropout_rngs.dropout(),
      remat=self._remat,
    )
    self.keep(memory)
    return self._shard(x, _TOKENS)

  def apply_output_head(
    self,
    shared_embedding: nnx.Module,
    y: jax.Array,
    deterministic: bool,
    model_mode: str,
    normalize_y: bool = True,
  ) -> jax.Array:
    """Final norm, dropout and logits (B, T, V).

    Tied logits are float32 products with the float32 table (SEMANTICS 1.7); MaxText's own head
    rounds the table to bfloat16 whatever the dtype.
    """
    config = self.config
    if not config.logits_via_embedding:
      return super().apply_output_head(shared_embedding, y, deterministic, model_mode, normalize_y)
    if normalize_y:
      y = self.decoder_norm(y)
    y = self.dropout(y, deterministic=deterministic).astype(jnp.float32)
    table = shared_embedding.embedding[...].astype(jnp.float32)
    logits = jnp.einsum("BTD,VD->BTV", y, table)
    if config.normalize_embedding_logits:
      logits /= jnp.sqrt(jnp.float32(y.shape[-1]))
    if config.final_logits_soft_cap:
      logits = config.final_logits_soft_cap * jnp.tanh(logits / config.final_logits_soft_cap)
    logits = self._shard(logits, _LOGITS)
    return logits if config.cast_logits_to_fp32 else logits.astype(config.dtype)

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
    given = sorted(name for name, value in unused.items() if value is not None)
    if given:
      raise NotImplementedError(f"decoder_block: melodi does not know what to do with {given[0]}.")
    precision = self.config.matmul_precision.value
    as_set = contextlib.nullcontext()
    if precision != "default":
      as_set = jax.default_matmul_precision(precision)
    with as_set:
      x = self._apply_embedding(
        shared_embedding,
        decoder_input_tokens,
        decoder_positions,
        deterministic=True,  # the paper drops nothing here
        model_mode=model_mode,
      )
      hidden = self.read(x, decoder_positions, decoder_segment_ids, deterministic)
      if self.config.num_vocab_tiling > 1:
        self.sow(nnx.Intermediate, "hidden_states", hidden)
        return None, hidden, kv_caches
      logits = self.apply_output_head(shared_embedding, hidden, deterministic, model_mode)
    return logits, hidden, kv_caches


def _make_layer(config: MelodiConfig, spec, dtype, rngs: nnx.Rngs) -> PaperLayerParams:
  return PaperLayerParams(config, spec, dtype=dtype, rngs=rngs)
