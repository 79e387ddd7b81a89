"""The paper's optimizer (SEMANTICS 3.1): optax's Adafactor, for every layer of a scanned stack.

Adafactor acts per tensor: it factors the second moment of a matrix, clips the update of a tensor by
its root mean square, and scales it by that of the parameter.  Scanned layers share one array, so
there each of these acts on one layer after the other, and scanning does not change the training.

A tensor of more than two dimensions, such as MaxText's attention kernels (D, N, H), is factored in
its two largest, as optax does.  The paper's layers keep theirs folded to (D, N * H).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from melodi_plugin.training.parameter_paths import name_of

MIN_DIM_SIZE_TO_FACTOR = 128
DECAY_RATE = 0.8
MOMENTUM = 0.9
CLIPPING_THRESHOLD = 1.0
EPSILON = 1e-30

# From the path of a parameter ("decoder/layers/query") to the axis of its layers, None without.
LayerAxis = Callable[[str], int | None]


def adafactor(
  learning_rate: optax.ScalarOrSchedule, layer_axis: LayerAxis = lambda path: None
) -> optax.GradientTransformation:
  """`optax.adafactor` with the paper's settings; the momentum is a mean of updates.

  Args:
    learning_rate: a number or a schedule.  Updates are relative to the size of a parameter.
    layer_axis: tells which parameters hold one tensor per layer.
  """
  moments = optax.scale_by_factored_rms(
    decay_rate=DECAY_RATE, min_dim_size_to_factor=MIN_DIM_SIZE_TO_FACTOR, epsilon=EPSILON
  )
  return optax.chain(
    _per_tensor(moments, layer_axis),
    _per_tensor(optax.clip_by_block_rms(CLIPPING_THRESHOLD), layer_axis),
    optax.scale_by_learning_rate(learning_rate, flip_sign=False),
    _per_tensor(optax.scale_by_param_block_rms(), layer_axis),
    optax.ema(MOMENTUM, debias=False),
    optax.scale(-1),
  )


def factored_dims(shape: Sequence[int]) -> tuple[int, int] | None:
  """The dimensions that `v_row` and `v_col` of one tensor lack; None if it is not factored.

  These are the largest and the second largest, as optax chooses them.
  """
  if len(shape) < 2:
    return None
  *_, second, largest = (int(dim) for dim in np.argsort(shape))
  return (largest, second) if shape[second] >= MIN_DIM_SIZE_TO_FACTOR else None


def _per_tensor(
  transformation: optax.GradientTransformation, layer_axis: LayerAxis
) -> optax.GradientTransformation:
  """Applies a transformation to every tensor by itself.

  Its state is a NamedTuple of a `count`, which all tensors share, and of trees like the parameters.
  The layers of a tensor have the same axis there as in its parameter, or else the last.
  """

  def init(params: Any) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    states = [_init(transformation, *each) for each in zip(axes_of(params), leaves, strict=True)]
    return _join(states, treedef)

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    leaves, treedef = jax.tree.flatten(updates)
    columns = axes_of(updates), leaves, _split(state, treedef), treedef.flatten_up_to(params)
    done = [_update(transformation, *each) for each in zip(*columns, strict=True)]
    return treedef.unflatten([u for u, _ in done]), _join([s for _, s in done], treedef)

  def axes_of(tree: Any) -> list[int | None]:
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    return [layer_axis(name_of(path)) for path in paths]

  return optax.GradientTransformation(init, update)


def _init(transformation: optax.GradientTransformation, axis: int | None, param: jax.Array) -> Any:
  """The state of one tensor, or of a stack, whose layers all begin alike."""
  if axis is None:
    return transformation.init(param)
  first = transformation.init(jax.lax.index_in_dim(param, 0, axis, keepdims=False))

  def stack(leaf: jax.Array) -> jax.Array:
    place = min(axis, leaf.ndim)
    return jnp.repeat(jnp.expand_dims(leaf, place), param.shape[axis], place)

  return first._replace(**{name: stack(getattr(first, name)) for name in _of_tensors(first)})


def _update(
  transformation: optax.GradientTransformation,
  axis: int | None,
  gradient: jax.Array,
  state: Any,
  param: jax.Array,
) -> tuple[Any, Any]:
  """The update and the new state of one tensor, or of every layer of a stack."""
  if axis is None:
    return transformation.update(gradient, state, param)
  own = {name: min(axis, getattr(state, name).ndim - 1) for name in _of_tensors(state)}
  axes = type(state)(**(dict.fromkeys(state._fields) | own))
  each_layer = jax.vmap(transformation.update, (axis, axes, axis), (axis, axes))
  return each_layer(gradient, state, param)


def _of_tensors(state: Any) -> list[str]:
  """The fields of a state that tensors do not share."""
  return [name for name in state._fields if name != "count"]


def _split(state: Any, treedef: Any) -> list[Any]:
  """The state of every tensor."""
  columns = {name: treedef.flatten_up_to(getattr(state, name)) for name in _of_tensors(state)}
  return [
    state._replace(**{name: column[index] for name, column in columns.items()})
    for index in range(treedef.num_leaves)
  ]


def _join(states: list[Any], treedef: Any) -> Any:
  """The inverse of `_split`."""
  first = states[0]
  return first._replace(
    **{name: treedef.unflatten([getattr(s, name) for s in states]) for name in _of_tensors(first)}
  )
