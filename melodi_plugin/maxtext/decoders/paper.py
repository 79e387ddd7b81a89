"""The decoder of the paper and of the systems it compares with: own layers, own output head."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from maxtext.common.common_types import MODEL_MODE_TRAIN
from maxtext.layers.normalizations import RMSNorm

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.core.attention import NORM_EPSILON
from melodi_plugin.core.stack import Section
from melodi_plugin.maxtext.decoders.base import MelodiDecoder
from melodi_plugin.systems.paper.params import small_init
from melodi_plugin.systems.params import start_temperatures, summary_embeddings
from melodi_plugin.systems.table import make_cell, parts

_LOGITS_OF_ENGINE = (None, None, "activation_vocab")  # a prompt is one row
_LOGITS = ("activation_embed_and_logits_batch", "activation_length", "activation_vocab")


class PaperDecoder(MelodiDecoder):
  """A stack of the paper's layers.

  Attributes:
    layers_{i} or layers_{i}_to_{j}: parameters of one layer, or of a scanned run of equal layers.
  """

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
    for run in self.runs:
      make = functools.partial(self._make_layer, run.spec)
      setattr(self, self.name_of(run), self.make_run(run, make, rngs))
    dtype = self.config.weight_dtype
    if self.melodi.summary_tokens:
      self.summary_embeddings = summary_embeddings(self.melodi, small_init, dtype=dtype, rngs=rngs)

  def _make_layer(self, spec: LayerSpec, *, rngs: nnx.Rngs) -> nnx.Module:
    config = self.config
    layer = parts(self.melodi, spec).params(self.melodi, spec, dtype=config.weight_dtype, rngs=rngs)
    starts = config.melodi_initial_temperature, config.melodi_long_term_temperature
    return start_temperatures(layer, *starts)

  # -- The stack and the head ----------------------------------------------------------------------

  def sections(self) -> list[Section]:
    """The runs with their parameters; layers are the first axis of every leaf."""
    sections = []
    for run in self.runs:
      params = getattr(self, self.name_of(run)).parameters()
      axis = self.config.param_scan_axis
      if self.config.scan_layers:
        params = jax.tree.map(lambda leaf, axis=axis: jnp.moveaxis(leaf, axis, 0), params)
      else:
        params = jax.tree.map(lambda leaf: leaf[None], params)
      cell = make_cell(self.melodi, run.spec, self.config.dtype)
      sections.append(Section(run, cell, params))
    return sections

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
    logits = self.shard(logits, _LOGITS if self.mode == MODEL_MODE_TRAIN else _LOGITS_OF_ENGINE)
    return logits if config.cast_logits_to_fp32 else logits.astype(config.dtype)
