"""The orders in which the grid of cells (layer, window) can be walked.  All give the same numbers.

`layers`   layer outside, windows inside.  With weights sharded over fsdp, XLA gathers a layer's
           weights again for every window (docs/results.md, ahead-of-time compiles).
`windows`  window outside, layers inside: only the activations of one window are alive.

Layers of one spec form a `Run` whose parameters are stacked, and are scanned; so are windows.
Neither compile time nor program size grows with the number of windows or of equal layers.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.config.model import LayerSpec, MelodiConfig, Run
from melodi_plugin.core.array_typing import Array, Float, Key
from melodi_plugin.core.cell import Cell
from melodi_plugin.core.memory import LayerMemory, Memory, settle
from melodi_plugin.core.segments import Windows

Wrap = Callable[[Callable], Callable]  # jax.checkpoint with a policy, or the identity


class Stage(NamedTuple):
  """A run of equal layers: how they read a window, and their parameters, stacked."""

  run: Run
  cell: Cell
  params: Any  # every leaf has the run's layers in front


class _Walk(NamedTuple):
  """What every cell of a segment gets besides its streams."""

  windows: Windows
  key: Key | None
  remat: Wrap

  @property
  def indices(self) -> Array:
    return jnp.arange(self.windows.starts.shape[0], dtype=jnp.int32)

  def key_of(self, layer: Array, window: Array | int) -> Key | None:
    """A dropout key of its own for every cell; window -1 is `begin`."""
    if self.key is None:
      return None
    return jax.random.fold_in(jax.random.fold_in(self.key, layer), window + 1)


def read_segment(
  stages: Sequence[Stage],
  config: MelodiConfig,
  x: Float[Array, "B T D"],
  summary: Float[Array, "U D"],
  memory: Memory,
  windows: Windows,
  *,
  schedule: str = "layers",
  key: Key | None = None,
  remat: Wrap = lambda function: function,
) -> tuple[Float[Array, "B T D"], Memory]:
  """Reads one segment of every row through the whole stack.

  Args:
    stages: the runs of layers, from the bottom up.
    config: the stack.
    x: embedded tokens, in the compute dtype.
    summary: the learned summary embeddings, which enter below layer 0 in every window.
    memory: what each row remembers from earlier segments.
    windows: the plan of the segment.
    schedule: 'layers' or 'windows'.
    key: dropout key; None turns dropout off.
    remat: wrapped around every cell.

  Returns:
    The context stream after the last layer, before the final norm, and the memory to carry on.
  """
  batch, length, width = x.shape
  num_windows = length // config.window_length
  x_KBWD = jnp.moveaxis(x.reshape(batch, num_windows, config.window_length, width), 1, 0)
  u_KBUD = jnp.broadcast_to(
    summary.astype(x.dtype), (num_windows, batch, config.summary_tokens, width)
  )
  walk = _Walk(windows, key, remat)
  memories = _split(memory, [stage.run for stage in stages])
  order = {"layers": _by_layers, "windows": _by_windows}[schedule]
  x_KBWD, memories = order(stages, x_KBWD, u_KBUD, memories, walk)
  new = settle(memory, _merge(memories, memory, stages), windows)
  return jnp.moveaxis(x_KBWD, 0, 1).reshape(batch, length, width), new


def _by_layers(stages, x_KBWD, u_KBUD, memories, walk: _Walk):
  """Layer outside, windows inside."""
  after = []
  for stage, memory in zip(stages, memories, strict=True):

    def read_layer(streams, layer, cell=stage.cell):
      params, memory, number = layer
      fixed, state = cell.begin(params, memory, walk.windows, walk.key_of(number, -1))

      @walk.remat
      def read_window(params, fixed, state, x, u, window, index):
        return cell.window(params, fixed, state, x, u, window, index, walk.key_of(number, index))

      def step(state, window):
        result = read_window(params, fixed, state, *window)
        return result.state, (result.x, result.u, result.update)

      state, (x, u, updates) = jax.lax.scan(step, state, (*streams, walk.windows, walk.indices))
      return (x, u), cell.end(memory, state, updates, walk.windows)

    (x_KBWD, u_KBUD), memory = jax.lax.scan(
      read_layer, (x_KBWD, u_KBUD), (stage.params, memory, _numbers(stage.run))
    )
    after.append(memory)
  return x_KBWD, after


def _by_windows(stages, x_KBWD, u_KBUD, memories, walk: _Walk):
  """Window outside, layers inside."""
  numbers = [_numbers(stage.run) for stage in stages]
  begun = []
  for stage, memory, number in zip(stages, memories, numbers, strict=True):

    def begin(_, layer, cell=stage.cell):
      params, memory, number = layer
      return None, cell.begin(params, memory, walk.windows, walk.key_of(number, -1))

    begun.append(jax.lax.scan(begin, None, (stage.params, memory, number))[1])
  fixed, states = zip(*begun, strict=True)

  def read_window(states, window):
    x, u, plan, index = window
    streams = (x, _told(stages, states, plan, u))
    after, updates = [], []
    for stage, *layers in zip(stages, fixed, states, numbers, strict=True):

      @walk.remat
      def read_layer(streams, layer, cell=stage.cell):
        params, fixed, state, number = layer
        result = cell.window(
          params, fixed, state, *streams, plan, index, walk.key_of(number, index)
        )
        return (result.x, result.u), (result.state, result.update)

      streams, (state, update) = jax.lax.scan(read_layer, streams, (stage.params, *layers))
      after.append(state)
      updates.append(update)
    return tuple(after), (streams[0], updates)

  # Only the state of the memories is kept from window to window; the rest is computed again.
  states, (x_KBWD, updates) = jax.lax.scan(
    jax.checkpoint(read_window, prevent_cse=False),
    states,
    (x_KBWD, u_KBUD, walk.windows, walk.indices),
  )
  after = []
  for stage, memory, state, update in zip(stages, memories, states, updates, strict=True):
    # `updates` came out with windows in front of layers.
    update = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), update)
    end = jax.vmap(stage.cell.end, in_axes=(0, 0, 0, None))
    after.append(end(memory, state, update, walk.windows))
  return x_KBWD, after


def _told(stages, states, plan: Windows, u: Array) -> Array:
  """What layers read below layer 0 besides x: the summary tokens, or what a layer tells all."""
  for stage, state in zip(stages, states, strict=True):
    # A layer that tells is alone in its run.
    own = jax.tree.map(lambda leaf: leaf[0], (stage.params, state))
    told = stage.cell.tell(*own, plan)
    if told is not None:
      return told
  return u


def _numbers(run: Run) -> Array:
  return run.first + jnp.arange(run.length, dtype=jnp.int32)


def _split(memory: Memory, runs: Sequence[Run]) -> list[LayerMemory]:
  """Cuts the memory of a stack into that of its runs; absent memories have zero tokens."""
  shorts, longs, parts = 0, 0, []

  def cut(stacked, start: int, run: Run, tokens: int):
    if tokens:
      return stacked[start : start + run.length]
    batch, width = stacked.shape[1], stacked.shape[3]
    return jnp.zeros((run.length, batch, 0, width), stacked.dtype)

  for run in runs:
    parts.append(
      LayerMemory(
        cut(memory.short, shorts, run, run.spec.short_tokens),
        cut(memory.long, longs, run, run.spec.queue_tokens),
      )
    )
    shorts += run.length if run.spec.short_tokens else 0
    longs += run.length if run.spec.queue_tokens else 0
  return parts


def _merge(parts: list[LayerMemory], memory: Memory, stages: Sequence[Stage]) -> Memory:
  """The inverse of `_split`."""
  specs: list[LayerSpec] = [stage.run.spec for stage in stages]
  short = [part.short for part, spec in zip(parts, specs, strict=True) if spec.short_tokens]
  long = [part.long for part, spec in zip(parts, specs, strict=True) if spec.queue_tokens]
  return memory._replace(
    short=jnp.concatenate(short) if short else memory.short,
    long=jnp.concatenate(long) if long else memory.long,
  )
