"""Operations of the matrix products of a traced program."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval


def inner_jaxprs(eqn: Any) -> list[Any]:
  """Programs in an operation, as the body of a loop."""
  leaves = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr"))
  closed = (getattr(leaf, "jaxpr", leaf) for leaf in leaves)
  return [jaxpr for jaxpr in closed if hasattr(jaxpr, "eqns")]


def traced_products(jaxpr: Any) -> int:
  """Operations of every `dot_general`, times the length of the loops around it."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      contracted = eqn.params["dimension_numbers"][0][0]
      inner = (eqn.invars[0].aval.shape[axis] for axis in contracted)
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(inner)
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    total += times * sum(map(traced_products, inner_jaxprs(eqn)))
  return total


def counted(function: Callable[..., Any], arguments: tuple) -> int:
  """The products of what is needed of a traced program."""
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
  return traced_products(needed)
