"""MELODI of two layers, one segment of documents for it, and gradients of any reader."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.conformance.stacks import document_rows, read_rows, stack_layers
from melodi_plugin.core.memory import Memory
from melodi_plugin.testing.tiny import quick_layers, random_memory, tiny_config

W, SEGMENT = 6, 30
# Carried on for 3 windows, then 2 more; carried on, a document, a window of padding; one of 5.
ROWS = [[-14, 12], [-9, 8], [30]]
SMALL: dict[str, Any] = dict(
  num_layers=2, short_term_layers=(0, 1), window_length=W, long_term_windows=2
)


def small_config(**changes: Any) -> MelodiConfig:
  """Two layers, the upper with a queue of two windows, which five windows overflow."""
  return tiny_config(**(SMALL | changes))


def draw(*shape: int, seed: int = 0) -> jax.Array:
  """Random float64."""
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float64)


@functools.cache
def inputs(config: MelodiConfig) -> tuple:
  """Layers, tokens, summary, memory, positions, segment ids."""
  layers = quick_layers(config)
  memory = random_memory(config, len(ROWS), windows=1, dtype=jnp.float64)
  x = draw(len(ROWS), SEGMENT, config.emb_dim)
  summary = draw(config.summary_tokens, config.emb_dim, seed=1)
  return layers, x, summary, memory, *document_rows(ROWS, SEGMENT, W)


def reader(config: MelodiConfig, **options: Any) -> Callable[..., tuple[jax.Array, Memory]]:
  """One segment; outputs at padding are zeros."""

  def read(layers, *arguments, **more):
    sections = stack_layers(layers, config, dtype=jnp.float64)
    return read_rows(sections, config, *arguments, **options, **more)

  return read


def value_and_grads(run, layers, x, summary, memory: Memory, weights, *plan):
  """Outputs, memory after, and gradients of a loss that sees outputs and memory."""

  def loss(layers, x, summary, short, long):
    y, after = run(layers, x, summary, memory._replace(short=short, long=long), *plan)
    reads = [jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves((after.short, after.long))]
    return jnp.sum(y * weights) + sum(reads), (y, after)

  grad = jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True)
  return grad(layers, x, summary, memory.short, memory.long)
