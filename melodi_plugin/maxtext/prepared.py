"""A model's parameters, made ready once to read many small pieces of text.

The trainer keeps the axis of layers where MaxText wants it, and finds its parameters in modules.
For one token at a time both cost more than the token: moving that axis copies every weight.  So
layers come in front here, once, and what is left of the model are its two ends: embedding and head.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen import logical_axis_rules
from flax.linen.spmd import logical_to_mesh_axes
from maxtext.common.common_types import CACHE_BATCH, MODEL_MODE_TRAIN

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Int
from melodi_plugin.core.decoding import OpenRows, begin
from melodi_plugin.core.stack import Section
from melodi_plugin.maxtext.decoders.cache import row_axes
from melodi_plugin.maxtext.loading import Loaded, fresh
from melodi_plugin.systems.table import empty_memory


class Weights(NamedTuple):
  """The arrays of a prepared model: what compiled functions take as their first argument."""

  layers: list[Any]  # parameters of the sections, layers in front
  summary: Float[Array, "U D"]
  ends: Any  # of the model without its layers


class PreparedModel:
  """A model with memory, and the functions of its weights.

  Attributes:
    config: MaxText's.
    melodi: its sizes.
    mesh: the devices.
    weights: see `Weights`.
  """

  def __init__(self, config: Any, loaded: Loaded, mesh: jax.sharding.Mesh):
    self.config, self.mesh = config, mesh
    self.melodi = MelodiConfig.from_maxtext(config)
    shapes: list[Section] = []

    def arrange(params: Any, memory: Any, rest: Any) -> tuple[list[Any], Array]:
      decoder = nnx.merge(loaded.graphdef, params, memory, rest, copy=True).decoder
      shapes.extend(decoder.sections())
      return [section.params for section in shapes], _summary_of(decoder)

    with self.on_mesh():
      # As arguments: as constants of the program, a large model would be compiled into it.
      layers, summary = jax.jit(arrange)(*loaded[1:])
    self._cells = [(section.run, section.cell) for section in shapes]
    model = nnx.merge(*loaded)
    for name in [name for name in vars(model.decoder) if name.startswith(("layers", "memory_"))]:
      delattr(model.decoder, name)
    self._graphdef, ends = nnx.split(model)
    self.weights = Weights(layers, summary, ends)

  @classmethod
  def fresh(cls, config: Any) -> "PreparedModel":
    """A model with parameters as the trainer makes them."""
    return cls(config, *fresh(config))

  @contextlib.contextmanager
  def on_mesh(self) -> Iterator[None]:
    """The surroundings in which its functions are compiled."""
    precision = self.config.matmul_precision.value
    with contextlib.ExitStack() as stack:
      if precision != "default":
        stack.enter_context(jax.default_matmul_precision(precision))
      stack.enter_context(jax.set_mesh(self.mesh))
      stack.enter_context(logical_axis_rules(self.config.logical_axis_rules))
      yield

  def sections(self, weights: Weights) -> list[Section]:
    """The stack."""
    both = zip(self._cells, weights.layers, strict=True)
    return [Section(run, cell, params) for (run, cell), params in both]

  def empty_rows(self, weights: Weights, rows: int) -> OpenRows:
    """Rows that have read nothing."""
    dtype = jnp.dtype(self.config.melodi_memory_dtype)
    return begin(self.sections(weights), empty_memory(self.melodi, rows, dtype))

  def row_shardings(self, rows: OpenRows) -> Any:
    """Where rows lie: as MaxText's rules say of caches, heads on the devices that share a layer."""

    def of(leaf: Any, axes: tuple[str | None, ...]) -> jax.sharding.NamedSharding:
      names = logical_to_mesh_axes(axes, self.config.logical_axis_rules) or ()
      spec = [
        name if size % math.prod(self.mesh.shape[n] for n in _as_tuple(name)) == 0 else None
        for name, size in zip(names, leaf.shape, strict=True)
      ]
      return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*spec))

    leaves, structure = jax.tree.flatten(rows)
    placed = zip(leaves, row_axes(rows, CACHE_BATCH), strict=True)
    return jax.tree.unflatten(structure, [of(leaf, axes) for leaf, axes in placed])

  def embed(self, weights: Weights, tokens: Int[Array, "B t"]) -> Float[Array, "B t D"]:
    """What the lowest layer reads.  No block that memory goes around looks at positions here."""
    model = nnx.merge(self._graphdef, weights.ends, copy=True)
    return model.decoder._apply_embedding(
      model.token_embedder,
      tokens,
      jnp.zeros_like(tokens),
      deterministic=True,
      model_mode=MODEL_MODE_TRAIN,
    )

  def logits(self, weights: Weights, y: Float[Array, "B t D"]) -> Float[Array, "B t V"]:
    """What the head says of outputs of the highest layer, in float32."""
    model = nnx.merge(self._graphdef, weights.ends, copy=True)
    head = model.decoder.apply_output_head
    return head(model.token_embedder, y, True, MODEL_MODE_TRAIN).astype(jnp.float32)


def _as_tuple(name: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The axes of the mesh over which one axis of an array is dealt."""
  return (name,) if isinstance(name, str) else name or ()


def _summary_of(decoder: Any) -> Float[Array, "U D"]:
  if decoder.melodi.summary_tokens:
    return decoder.summary_embeddings[...]
  return jnp.zeros((0, decoder.melodi.emb_dim), decoder.config.dtype)
