"""MaxText's eval step with a memory of its own."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from maxtext.utils import sharding

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.maxtext.decoders.state import MelodiMemory, empty_variables, memory_axes

Memory = dict[str, jax.Array]


class EvalStep:
  """Takes the place of MaxText's jitted eval step: `(state, batch) -> metrics`.

  The rows of the evaluation batch carry a memory of their own from step to step.  In the first
  batch of an evaluation every row begins a document, so memory starts from zeros there.  The
  training state goes in and is not changed.
  """

  def __init__(
    self,
    config: Any,
    graphdef: Any,
    state_shardings: Any,
    batch_sharding: jax.sharding.NamedSharding,
    eval_step: Callable,
  ):
    sizes = MelodiConfig.from_maxtext(config)
    axes = memory_axes(sizes)
    empty = empty_variables(sizes, config.micro_batch_size_to_eval_on, config.melodi_memory_dtype)
    shardings = {
      name: sharding.create_sharding(
        batch_sharding.mesh, axes[name], rules=config.logical_axis_rules_for_eval
      )
      for name in empty
    }
    self._memory: Memory = jax.device_put(empty, shardings)
    self._jitted = jax.jit(
      functools.partial(_step, eval_step, graphdef, config),
      in_shardings=(state_shardings, shardings, batch_sharding),
      out_shardings=(None, shardings),
      donate_argnums=1,
    )

  def __call__(self, state: Any, batch: Any) -> dict[str, Any]:
    """Metrics of one evaluation batch; the memory goes on to the next call."""
    metrics, self._memory = self._jitted(state, self._memory, batch)
    return metrics

  def lower(self, state: Any, batch: Any) -> Any:
    """What MaxText compiles before its loop begins."""
    return self._jitted.lower(state, self._memory, batch)


def _step(
  eval_step: Callable, graphdef: Any, config: Any, state: Any, memory: Memory, batch: Any
) -> tuple[dict[str, Any], Memory]:
  """MaxText's `eval_step` with `memory` in the place of the training rows', and what it leaves."""
  variables = {
    str(path[-1]): variable
    for path, variable in nnx.to_flat_state(state)
    if isinstance(variable, MelodiMemory)
  }
  for name, variable in variables.items():
    variable.set_value(memory[name])
  metrics = eval_step(graphdef, config, state, batch)
  # `eval_step` merges the variables of `state` into its model, which writes memory to them.
  after = {name: variable[...] for name, variable in variables.items()}
  if any(after[name] is memory[name] for name in memory):
    raise RuntimeError(
      "MaxText's eval_step no longer runs the model on the variables of its state, so memory would "
      "not be carried; melodi_plugin must be adapted to this MaxText."
    )
  return metrics, after
