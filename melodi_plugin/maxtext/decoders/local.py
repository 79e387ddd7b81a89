"""Every device reads its own rows; of a layer's weights it has a part, and gathers the others once.

Left to XLA, weights that are sharded over fsdp are gathered in every window of every pass, and
gradients are reduced in every window (docs/results.md).  Here both happen once per layer and pass:
the walk runs under `jax.shard_map` over the axes of rows, all others being XLA's as before.  Where
there are no others, kernels fit in (`core.flash`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx
from flax.core.spmd import logical_axis_rules
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from maxtext.common.common_types import ShardMode
from maxtext.utils import sharding

from melodi_plugin.core.memory import Memory
from melodi_plugin.core.schedules.layers import STATE
from melodi_plugin.core.schedules.walk import Weights
from melodi_plugin.core.stack import Section

_WEIGHTS = "fsdp"  # the one axis over which weights are sharded and gathered here
_ROWS = {"data", _WEIGHTS}
_GATHERED = "gathered_weights"


class Places(NamedTuple):
  """Where the parts of a segment lie.

  Attributes:
    mesh: MaxText's.
    rows: the axes over which rows are spread.
    mapped_axes: these, and all over which nothing is; what is left is XLA's.
    sharded: per section, the tree of axes that are sharded over fsdp; -1 where none is.
    dtype: in which weights are gathered.
    rules: MaxText's rules of axes for what is spread over what is left, by which its own layers
      shard their activations.
  """

  mesh: jax.sharding.Mesh
  rows: tuple[str, ...]
  mapped_axes: tuple[str, ...]
  sharded: list[Any]
  dtype: Any
  rules: list[Any]

  def weights(self, policy: Any, recomputes: bool) -> Weights:
    """See `Weights`; `policy` is MaxText's, of what a cell keeps, if it computes anything again."""
    policies = jax.checkpoint_policies
    keeps = policies.save_anything_except_these_names(_GATHERED)
    if recomputes:
      keeps = _either(policies.save_only_these_names(STATE), policy)

    def remat(layer: Callable) -> Callable:
      return jax.checkpoint(layer, policy=keeps, prevent_cse=False)

    return Weights(self._whole, remat)

  def _whole(self, section: int, params: Any) -> Any:
    def gather(leaf: jax.Array, axis: int) -> jax.Array:
      if axis < 0:
        return leaf
      part = leaf.astype(self.dtype)
      whole = jax.lax.all_gather(part, _WEIGHTS, axis=axis - 1, tiled=True)  # layers are scanned
      # Back in its own type, in which the gradients of windows are added.
      return checkpoint_name(whole, _GATHERED).astype(leaf.dtype)

    return jax.tree.map(gather, params, self.sharded[section])

  def mapped(self, read: Callable) -> Callable:
    """`read(params, summary, rng, memory, by_row) -> x, memory`, every device on its own rows.

    `params` are those of all sections; every leaf of `by_row` has rows in front.
    """
    rows: Any = PartitionSpec(self.rows)
    memory = Memory(PartitionSpec(None, self.rows), PartitionSpec(None, self.rows), rows)

    def spec(axis: int) -> PartitionSpec:
      return PartitionSpec() if axis < 0 else PartitionSpec(*[None] * axis, _WEIGHTS)

    def local(params, summary, rng, memory, by_row):
      if rng is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(self.rows))
      with logical_axis_rules(self.rules):
        return read(params, summary, rng, memory, by_row)

    return jax.shard_map(
      local,
      mesh=self.mesh,
      axis_names={*self.mapped_axes},
      in_specs=(jax.tree.map(spec, self.sharded), PartitionSpec(), PartitionSpec(), memory, rows),
      out_specs=(rows, memory),
      check_vma=False,
    )


def places(decoder: Any, sections: list[Section], batch: int) -> Places | None:
  """Where things lie if every device can read its rows alone; None if it cannot, or has them all.

  Args:
    decoder: a `MelodiDecoder`.
    sections: its.
    batch: rows of all devices.
  """
  config, mesh = decoder.config, decoder.mesh
  rows = _mesh_axes(decoder, ("activation_batch",))[0]
  if (
    not rows
    or not _ROWS.issuperset(rows)
    or batch % math.prod(mesh.shape[axis] for axis in rows)
    or config.melodi_schedule != "layers"
    or config.shard_mode != ShardMode.AUTO
    or config.num_experts > 1  # MaxText's experts map over the mesh themselves
  ):
    return None
  mapped = (*rows, *(axis for axis, size in mesh.shape.items() if size == 1))
  rules = [(name, _without(mapped, axes)) for name, axes in config.logical_axis_rules]
  return Places(mesh, rows, mapped, _sharded(decoder, sections), config.dtype, rules)


def _either(keeps: Callable, policy: Callable | None) -> Callable:
  """Two policies as one.

  MaxText's may also answer where to put a value, and JAX's own joins yes and no alone.
  """

  def either(*operation: Any, **params: Any) -> Any:
    return keeps(*operation, **params) or (policy is not None and policy(*operation, **params))

  return either


def _without(mapped: tuple[str, ...], axes: Any) -> tuple[str, ...]:
  axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
  return tuple(axis for axis in axes if axis not in mapped)


def _mesh_axes(decoder: Any, names: tuple[str | None, ...]) -> list[tuple[str, ...]]:
  """The axes of the mesh, larger than 1, over which the axes of an array are spread."""
  rules = decoder.config.logical_axis_rules
  found = sharding.logical_to_mesh_axes(names, decoder.mesh, rules=rules) or ()
  every = [() if own is None else (own,) if isinstance(own, str) else tuple(own) for own in found]
  return every + [()] * (len(names) - len(every))


def _sharded(decoder: Any, sections: list[Section]) -> list[Any]:
  """The axes of the sections' parameters that are sharded over fsdp.

  Sections are made of the model's variables by moving and cutting axes; what has happened to a
  sharded one is seen by making them of parts, too.
  """
  size = decoder.mesh.shape[_WEIGHTS]
  graphdef, variables, rest = nnx.split(decoder, nnx.Param, ...)

  def part(variable: nnx.Variable) -> nnx.Variable:
    value = variable[...]
    names = variable.get_metadata().get("out_sharding") or (None,) * value.ndim
    over = [_WEIGHTS in axes for axes in _mesh_axes(decoder, tuple(names))]
    shape = [n // size if here else n for n, here in zip(value.shape, over, strict=True)]
    return variable.replace(jax.ShapeDtypeStruct(shape, value.dtype))

  def params(variables: Any) -> list[Any]:
    return [section.params for section in nnx.merge(graphdef, variables, rest).sections()]

  parts = jax.tree.map(part, variables, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))

  def axis(whole: jax.Array, own: jax.ShapeDtypeStruct) -> int:
    return next((i for i, n in enumerate(whole.shape) if n != own.shape[i]), -1)

  return jax.tree.map(axis, [own.params for own in sections], jax.eval_shape(params, parts))
