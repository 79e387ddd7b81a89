"""Which parameters Muon orthogonalizes, and by which axes: the matrices of our layers.

All others, scalars, vectors and tables, are left to Adam, as optax's `muon` does.
"""

from typing import Any

from flax import nnx
from optax.contrib import MuonDimensionNumbers

from melodi_plugin.config.parameter_names import TABLES, is_memory_parameter, is_scalar
from melodi_plugin.training.optimizer_state import layer_axis
from melodi_plugin.training.parameter_paths import name_of


def matrix_axes(model: nnx.Module, stock: Any = None) -> Any:
  """The axes that a matrix maps from and to, None for what is none, in the shape of the parameters.

  Args:
    model: a model of MaxText with our layers, which may be abstract.
    stock: the same of a stock model's parameters, where memory goes around it.
  """
  own = dict(nnx.to_flat_state(stock)) if stock is not None else {}

  def axes(path: Any, variable: nnx.Variable) -> Any:
    name = name_of(path)
    if stock is not None and not is_memory_parameter(name):
      return own.get(path)
    return _axes_of_ours(name, variable)

  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return nnx.from_flat_state([(path, axes(path, variable)) for path, variable in flat])


def _axes_of_ours(name: str, variable: nnx.Variable) -> MuonDimensionNumbers | None:
  stacked = layer_axis(variable)
  axes = [axis for axis in range(variable.ndim) if axis != stacked]
  in_layer = "decoder/layers" in name or is_memory_parameter(name)
  if len(axes) != 2 or not in_layer or is_scalar(name) or name.endswith(TABLES):
    return None
  return MuonDimensionNumbers((axes[0],), (axes[1],))
