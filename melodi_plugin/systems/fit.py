"""Whether the parts of a user's system fit together: shapes of one window, without computing it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.segments import plan_windows
from melodi_plugin.systems.table import make_cell, parts


def check_fit(config: MelodiConfig) -> None:
  """Raises ValueError, with one sentence, if they do not; layers of equal spec are alike."""
  for spec in dict.fromkeys(config.layers):
    own = parts(config, spec)  # says itself what is missing
    try:
      memory, streams, *after = jax.eval_shape(lambda own=own, spec=spec: _read(config, spec, own))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
      reason = (str(error).splitlines() or [""])[0].rstrip(".")
      raise ValueError(
        f"the system {config.system} does not fit together: reading one window raises "
        f"{type(error).__name__}: {reason}."
      ) from error
    for name, before, new in zip(("memory", "a stream"), (memory, streams), after, strict=True):
      _compare(config.system, name, before, new)


def _read(config: MelodiConfig, spec: LayerSpec, own: Any) -> tuple:
  """Memory and streams of a row before and after a window."""
  with nnx.use_eager_sharding(False):  # there is no mesh here
    module = own.params(config, spec, dtype=jnp.float32, rngs=nnx.Rngs(0))
  params, cell = module.parameters(), make_cell(config, spec)
  memory: LayerMemory = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape)), cell.stored)
  length, width = config.window_length, config.emb_dim
  windows = plan_windows(
    jnp.zeros((1, length), jnp.int32),
    jnp.ones((1, length), jnp.int32),
    jnp.zeros((1,), jnp.int32),
    window_length=length,
    queue_windows=config.long_term_windows,
  )
  window = jax.tree.map(lambda leaf: leaf[0], windows)
  streams = Streams(jnp.zeros((1, length, width)), jnp.zeros((1, config.summary_tokens, width)))
  fixed, state = cell.begin(params, memory, windows)
  result = cell.window(params, fixed, state, streams, window, jnp.int32(0))
  pushed = jax.tree.map(lambda leaf: leaf[None], result.pushed)
  return memory, streams, cell.end(memory, result.state, pushed, windows), result.streams


def _compare(system: str, name: str, before: Any, after: Any) -> None:
  shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (after, before)]
  for new, old in zip(*shapes, strict=False):
    if new != old:
      raise ValueError(
        f"the system {system} does not fit together: {name} has the shape {new} after a window, "
        f"and {old} before it."
      )
  if jax.tree.structure(before) != jax.tree.structure(after):
    raise ValueError(
      f"the system {system} does not fit together: {name} is {jax.tree.structure(after)} after a "
      f"window, and {jax.tree.structure(before)} before it."
    )
