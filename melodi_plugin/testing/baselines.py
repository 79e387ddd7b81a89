"""Small models of the systems that MELODI is compared with, and two segments to read."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.layers import Neighbors, Recurrence
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT, MEMORIZING, TRANSFORMER_XL
from melodi_plugin.conformance import stacks
from melodi_plugin.conformance.stacks import document_rows, draw, jit, read_rows, stack_layers
from melodi_plugin.core.memory import Memory
from melodi_plugin.reference import baselines as naive_baselines
from melodi_plugin.testing.tiny import random_memory

SIZES: dict[str, Any] = dict(
  num_layers=2, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32, window_length=4, position="t5"
)
W, SEGMENT, BATCH = 4, 12, 2
# What two consecutive segments hold.  Row 0: carried on, a document of 7 tokens; one shorter than a
# window, another one, and a window of padding.  Row 1: carried on with 3 tokens, then a document of
# five windows, which no queue here holds.
ROWS = ([[-4, 7], [-3, 8]], [[3, 4], [-12]])
ONE_WINDOW = ([[-7], [12]], [[5], [-3]])  # the same for one window per segment


def transformer_xl(**changes: Any) -> MelodiConfig:
  """Two equal layers."""
  return MelodiConfig.baseline(TRANSFORMER_XL, **(SIZES | changes))


def memorizing(count: int = 0, exact: bool = False, **changes: Any) -> MelodiConfig:
  """A queue of two windows in the upper layer; `count` neighbors."""
  sizes: dict[str, Any] = SIZES | dict(memory_layers=(1,), queue_windows=2) | changes
  return MelodiConfig.baseline(MEMORIZING, neighbors=Neighbors(count, exact), **sizes)


def block_recurrent(
  gate: str = "bias", cell: str = "skip", feedback: bool = False, **changes: Any
) -> MelodiConfig:
  """Three states in the lower layer."""
  sizes: dict[str, Any] = SIZES | dict(memory_layers=(0,), states=3) | changes
  recurrence = Recurrence(gate, cell, feedback)
  return MelodiConfig.baseline(BLOCK_RECURRENT, recurrence=recurrence, **sizes)


random_layers = functools.partial(stacks.random_layers, spread=0.4)


def memory_of(config: MelodiConfig, seed: int = 0) -> Memory:
  """A memory of two windows in every row."""
  return random_memory(config, BATCH, seed, dtype=jnp.float64)


def fast(config: MelodiConfig, schedule: str = "layers", scan_layers: bool = True):
  """One segment by the fast path; outputs at padding are zeros."""

  def read(layers, x, memory: Memory, positions, ids):
    sections = stack_layers(layers, config, scan_layers, x.dtype)
    summary = jnp.zeros((0, config.emb_dim), x.dtype)
    return read_rows(sections, config, x, summary, memory, positions, ids, schedule=schedule)

  return read


def value_and_grads(read, layers, x, memory: Memory, weights, share, positions, ids):
  """Outputs, memory after, and gradients of a loss that sees outputs and a share of memory."""

  def loss(layers, x, short, long):
    y, after = read(layers, x, memory._replace(short=short, long=long), positions, ids)
    reads = [jnp.sum(jnp.sin(leaf)) for leaf in (after.short, after.long)]
    return jnp.sum(y * weights) + share * sum(reads), (y, after)

  gradients, (y, after) = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(
    layers, x, memory.short, memory.long
  )
  return y, after, gradients


def value(read, layers, x, memory: Memory, weights, share, positions, ids):
  """Outputs and memory after, of the arguments of `value_and_grads`."""
  return read(layers, x, memory, positions, ids)


@functools.cache
def compiled(
  config: MelodiConfig, schedule: str = "layers", scan_layers: bool = True, gradients: bool = True
):
  """What the fast path makes of the arguments of `value_and_grads`."""
  of = value_and_grads if gradients else value
  return jit(functools.partial(of, fast(config, schedule, scan_layers)))


class Batch(NamedTuple):
  """One segment of `BATCH` rows; padding holds noise, of weight zero."""

  x: jax.Array
  weights: jax.Array
  positions: np.ndarray
  ids: np.ndarray


def batch_of(config: MelodiConfig, documents: list[list[int]], seed: int = 0) -> Batch:
  """Random tokens; see `testing.document_rows`."""
  positions, ids = document_rows(documents, SEGMENT, config.window_length)
  shape = (BATCH, SEGMENT, config.emb_dim)
  weights = np.where(ids[..., None] > 0, draw(seed + 1, *shape), 0)
  return Batch(jnp.asarray(draw(seed, *shape)), jnp.asarray(weights), positions, ids)


def read(config: MelodiConfig, batch: Batch, memory: Memory | None = None, share: float = 0.0):
  """What the fast path makes of a batch."""
  memory = memory_of(config) if memory is None else memory
  return compiled(config)(random_layers(config), batch.x, memory, batch.weights, share, *batch[2:])


@functools.cache
def truth(config: MelodiConfig, gradients: bool = True) -> list[tuple]:
  """What `naive_baselines` makes of two segments, the second with the memory of the first."""
  layers, memory, results = random_layers(config), memory_of(config), []
  of = value_and_grads if gradients else value
  for seed, documents in enumerate(rows_of(config)):
    batch = batch_of(config, documents, seed)
    # Loops of Python need to know documents.
    document = dict(positions=batch.positions, ids=batch.ids, windows=np.asarray(memory.windows))
    run = jit(functools.partial(of, functools.partial(_read_naively, config, **document)))
    results.append(run(layers, batch.x, memory, batch.weights, 1.0, None, None))
    memory = results[-1][1]
  return results


def _read_naively(config: MelodiConfig, layers, x, memory: Memory, *_, positions, ids, windows):
  memory = memory._replace(windows=windows)
  return naive_baselines.read_segment(layers, config, x, memory, positions, ids)


def rows_of(config: MelodiConfig) -> tuple:
  """The documents of the two segments."""
  return ROWS if config.window_length == W else ONE_WINDOW
