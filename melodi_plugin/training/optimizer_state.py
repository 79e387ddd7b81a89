"""Adafactor of a MaxText model: which parameters are stacks, and the logical axes of its moments.

`nnx.Optimizer` gives every array of its state the metadata of the parameter that it belongs to, and
MaxText shards it by the logical axes in there.  The factored moments lack a dimension of theirs.
"""

from typing import Any

import jax
import optax
from flax import nnx

from melodi_plugin.training.adafactor import adafactor, factored_dims
from melodi_plugin.training.parameter_paths import name_of

_AXES = ("out_sharding", "sharding_names", "sharding")  # metadata that name logical axes
_FACTORS = ("v_row", "v_col")


def adafactor_of(
  model: nnx.Module, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
  """Adafactor for the parameters of a model, which may be abstract."""
  axes = {
    name_of(path): layer_axis(variable)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
  }
  optimizer = adafactor(learning_rate, axes.__getitem__)

  def init(params: Any) -> Any:
    states: Any = optimizer.init(nnx.as_pure(params))
    return tuple(_boxed(params, state) for state in states)

  return optax.GradientTransformation(init, optimizer.update)


def layer_axis(variable: nnx.Variable) -> int | None:
  """The axis of the layers, where MaxText has stacked them for a scan.

  Layers of a block that is itself stacked (`local_layers`) count as one tensor.
  """
  metadata = variable.get_metadata()
  if nnx.PARTITION_NAME not in metadata:
    return None
  return min(metadata.get("param_scan_axis", 0), variable.ndim - 1)


def _boxed(params: Any, state: Any) -> Any:
  """One state of the chain with the metadata of the parameters, as `optimizer.init` is to return.

  Args:
    params: a tree of variables.
    state: a NamedTuple of a `count` and of trees like it.
  """

  def boxed(name: str) -> Any:
    return jax.tree.map(
      lambda variable, leaf: _variable(variable, leaf, name),
      params,
      getattr(state, name),
      is_leaf=lambda node: isinstance(node, nnx.Variable),
    )

  return state._replace(**{name: boxed(name) for name in state._fields if name != "count"})


def _variable(param: nnx.Variable, leaf: Any, name: str) -> nnx.Variable:
  """An array of the optimizer's state as a variable, with those of the axes that are left in it."""
  axes = next(filter(None, map(param.get_metadata().get, _AXES)), None)
  frozen = not hasattr(leaf, "shape")  # a placeholder, see trainable_parameters_mask
  if frozen or axes is None or leaf.shape == param.shape:
    return param.replace(leaf)
  left = _axes_left(param, list(axes), name)
  own = {key: left for key in _AXES if param.get_metadata().get(key)}
  return param.replace(leaf, **own)


def _axes_left(param: nnx.Variable, axes: list[str | None], name: str) -> tuple[str | None, ...]:
  """The logical axes of a factor; none for what stands in the place of an unused moment."""
  shape, layers = list(param.shape), layer_axis(param)
  axes += [None] * (len(shape) - len(axes))
  if layers is not None:
    del shape[layers]
  stacked = [] if layers is None else [axes.pop(layers)]
  dims = factored_dims(shape)
  if dims is None or name not in _FACTORS:
    return ()
  del axes[dims[_FACTORS.index(name)]]
  at = min(layers or 0, len(axes))
  return (*axes[:at], *stacked, *axes[at:])
