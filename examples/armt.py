"""A memory of one's own: the associative memory of ARMT (Rodkin et al., 2024).

Every layer keeps a matrix A and a vector z, however long the document is.  Before a layer reads,
each token asks them, y = A φ(W_q x) / zᵀφ(W_q x), and adds what it finds.  After it, the summary
tokens m of the window (the paper's memory tokens) are written by the delta rule: with k = φ(W_k m),
v = W_v m and β = σ(W_β m), what k finds is replaced by v,

  A ← A + Σ β (v - v̄) kᵀ,   z ← z + Σ γ k,   v̄ = A k / zᵀk,   γ = max(0, 1 - zᵀk / |k|²),

so that z counts a key only as far as it is new (the official code's clip).  `melodi train
examples/armt.yml` trains it; docs/own_memory.md explains the parts.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros
from pydantic import BaseModel, Field

import melodi_plugin
from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.attention import wide_dtype
from melodi_plugin.core.memories.rewritten import Rewritten
from melodi_plugin.core.memories.short_term import Mixed
from melodi_plugin.core.memory import Stored
from melodi_plugin.systems.paper.layer import PaperLayer
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.paper.reader import PaperReader
from melodi_plugin.systems.params import kernel_init, new_param
from melodi_plugin.systems.table import Parts

ORDER = 3  # ν of DPFP-ν


class ArmtKeys(BaseModel):
  """Keys of a config, beside MaxText's and ours."""

  armt_key_width: int = Field(64, gt=0, description="ARMT: width of keys and queries before φ.")


# -- The mathematics -------------------------------------------------------------------------------


class Association(NamedTuple):
  """What a layer remembers: A (B, D, F) and z (B, F), with F = 2 · ORDER · armt_key_width."""

  matrix: jax.Array
  mass: jax.Array


class AssociationParams(NamedTuple):
  """W_q, W_k (D, K), W_v (D, D) and W_β (D) of one layer."""

  query: jax.Array
  key: jax.Array
  value: jax.Array
  strength: jax.Array


def dpfp(x: jax.Array) -> jax.Array:
  """φ: products of rectified numbers with those 1 to ORDER places before (Schlag et al., 2021)."""
  x = jax.nn.relu(jnp.concatenate([x, -x], axis=-1))
  return jnp.concatenate([x * jnp.roll(x, shift, axis=-1) for shift in range(1, ORDER + 1)], -1)


def find(memory: Association, key: jax.Array) -> jax.Array:
  """What keys (B, t, F) find: (B, t, D); 0 where nothing has been written."""
  mass = jnp.einsum("BF,BtF->Bt", memory.mass, key)[..., None]
  known, found = mass > 1e-6, jnp.einsum("BDF,BtF->BtD", memory.matrix, key)
  return jnp.where(known, found / jnp.where(known, mass, 1), 0)


def write(
  memory: Association, key: jax.Array, value: jax.Array, strength: jax.Array
) -> Association:
  """Writes t pairs at once, of keys (B, t, F) and values (B, t, D), with β (B, t)."""
  change = strength[..., None] * (value - find(memory, key))
  length = jnp.sum(key**2, axis=-1)
  overlap = jnp.einsum("BF,BtF->Bt", memory.mass, key) / jnp.where(length > 0, length, 1)
  return Association(
    memory.matrix + jnp.einsum("BtD,BtF->BDF", change, key),
    memory.mass + jnp.einsum("Bt,BtF->BF", jax.nn.relu(1 - overlap), key),
  )


# -- The parts of a cell ---------------------------------------------------------------------------


class ArmtLayer(NamedTuple):
  """Parameters of one layer."""

  tokens: PaperLayer
  memory: AssociationParams


class ArmtLayerParams(nnx.Module):
  """The same as MaxText holds it; W_v begins as 0, so an untrained memory changes nothing."""

  def __init__(self, config: MelodiConfig, spec: LayerSpec, *, dtype: Any, rngs: nnx.Rngs):
    width, keys = config.emb_dim, config.own.armt_key_width
    self.tokens = PaperLayerParams(config, spec, dtype=dtype, rngs=rngs)
    self.query = new_param(rngs, kernel_init, (width, keys), ("embed", "heads"), dtype)
    self.key = new_param(rngs, kernel_init, (width, keys), ("embed", "heads"), dtype)
    self.value = new_param(rngs, zeros, (width, width), ("embed", "heads"), dtype)
    self.strength = new_param(rngs, zeros, (width,), ("norm",), dtype)

  def parameters(self) -> ArmtLayer:
    """The arrays, for the pure functions."""
    own = (self.query, self.key, self.value, self.strength)
    return ArmtLayer(self.tokens.parameters(), AssociationParams(*(param[...] for param in own)))


class ArmtReader:
  """Asks the memory, then reads as a layer of the MELODI paper does."""

  mixes_inputs: ClassVar[bool] = False

  def __init__(self, config: MelodiConfig, spec: LayerSpec, dtype: Any):
    self.layer = PaperReader(config, spec, dtype)

  def remembered(self, params: ArmtLayer, tokens, where, rng):
    """See `core.cell.Reader`."""
    return self.layer.remembered(params.tokens, tokens, where, rng)

  def read(self, params: ArmtLayer, tokens, row, long: Association, rng):
    """See `core.cell.Reader`."""
    query = dpfp(_project(tokens, params.memory.query))
    tokens += find(long, query).astype(tokens.dtype)
    return self.layer.read(params.tokens, tokens, row, None, rng)


@dataclasses.dataclass(frozen=True)
class DeltaRule:
  """How the memory is rewritten: a `core.memories.rewritten.Rule`."""

  config: MelodiConfig
  tells: ClassVar[bool] = False

  @property
  def stored(self) -> Association:
    """Shapes, without rows, and the logical axes that they are sharded by."""
    width, features = self.config.emb_dim, 2 * ORDER * self.config.own.armt_key_width
    return Association(
      Stored((width, features), ("activation_embed", None)), Stored((features,), (None,))
    )

  def initial(self, params: ArmtLayer, batch: int) -> Association:
    """Nothing is associated with anything."""
    return jax.tree.map(lambda leaf: jnp.zeros((batch, *leaf.shape)), self.stored)

  def seen(self, params: ArmtLayer, state: Association) -> Association:
    """A window sees all of it."""
    return state

  def reads(self, seen: Association) -> Association:
    """The reader gets what the window sees."""
    return seen

  def rewrite(self, params: ArmtLayer, u, seen: Association, row) -> Association:
    """Writes the summary tokens of a window."""
    own = params.memory
    strength = jax.nn.sigmoid(_project(u, own.strength[:, None])[..., 0])
    return write(seen, dpfp(_project(u, own.key)), _project(u, own.value), strength)


def _project(tokens: jax.Array, kernel: jax.Array) -> jax.Array:
  """In float32 at least: small differences of sums decide what the delta rule writes."""
  wide = wide_dtype(tokens)
  return jnp.einsum("BtD,DK->BtK", tokens.astype(wide), kernel.astype(wide))


def delta_rule(config: MelodiConfig, spec: LayerSpec, dtype: Any) -> Rewritten:
  """The long-term memory of a layer."""
  return Rewritten(DeltaRule(config), wide_dtype(jnp.zeros((), dtype)))


def parts(config: MelodiConfig, spec: LayerSpec) -> Parts:
  """All layers are alike; without short-term tokens `Mixed` is no memory."""
  return Parts(ArmtReader, Mixed, delta_rule, ArmtLayerParams)


melodi_plugin.register_system("armt", parts, keys=ArmtKeys)
