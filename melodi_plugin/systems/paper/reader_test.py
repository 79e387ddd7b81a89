"""The paper's cell: one window by its verbs, and one more order of the walk."""

import functools

import jax
import jax.numpy as jnp
import pytest

from melodi_plugin.conformance.stacks import jit, plan
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.segments import reset, select_rows
from melodi_plugin.systems.table import make_cell
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.segments import W, draw, inputs, reader, small_config
from melodi_plugin.testing.tiny import assert_close

pytestmark = pytest.mark.usefixtures("float64")

SPECS = {
  "paper": {},
  "summary differs from short": dict(short_term_tokens=3),
  "no branching": dict(summary_branching=False),
  "no short-term memory": dict(short_term_tokens=0),
  "no summary": dict(summary_tokens=0),
  "empty slots masked": dict(mask_empty_slots=True),
}


# -- One cell -------------------------------------------------------------------------------------


def split(config, memory):
  """The memory of every layer; the two-layer stacks here have a queue in the upper one."""
  absent = jnp.zeros((memory.windows.shape[0], 0, config.emb_dim))
  shorts = list(memory.short) or [absent] * 2
  return [LayerMemory(shorts[0], absent), LayerMemory(shorts[1], memory.long[0])]


@pytest.mark.parametrize(
  "name", broad_but(["paper"], ["paper", "summary differs from short", "no summary"])
)
def test_one_window_equals_context_and_close(name):
  """Also for u and the update of the topmost layer, which nothing in a stack shows."""
  config = small_config(**SPECS[name])
  layers, x, _, memory, positions, ids = inputs(config)
  cell, layer = make_cell(config, config.layer(1), jnp.float64), layers[1]
  u = draw(x.shape[0], config.summary_tokens, config.emb_dim, seed=2)

  def window(layer, x, u, memory):
    windows = plan(config, memory.windows, positions, ids)
    own = split(config, memory)[1]
    result = cell.window(
      layer,
      *cell.begin(layer, own, windows),
      Streams(x[:, :W], u),
      jax.tree.map(lambda leaf: leaf[0], windows),
      jnp.int32(0),
    )
    return result.streams.x, result.streams.u, result.update[1:]

  def verbs(layer, x, u, memory):
    starts = jnp.asarray(positions[:, 0] == 0)
    own, held = reset(starts, (split(config, memory)[1], memory.windows))
    recall, opened = cell.recall(layer, own, held), cell.open(x.shape[0])
    place, valid = jnp.zeros(x.shape[0], jnp.int32), jnp.asarray(ids[:, :W] > 0)
    x, new = cell.context(layer, x[:, :W], place, valid, recall, opened)
    opened = cell.append(opened, new, place, valid)
    u, update = cell.close(layer, u, recall, opened)
    return x, u, update[1:]

  arguments = layer, x, u, memory
  assert_close(jit(verbs)(*arguments), jit(window)(*arguments), 1e-9, 1e-9)


def test_tokens_of_padding_leave_no_trace_in_the_open_window():
  config = small_config()
  layers, x, summary, memory, *_ = inputs(config)
  cell, layer = make_cell(config, config.layer(1), jnp.float64), layers[1]
  own = split(config, memory)[1]
  u = jnp.broadcast_to(summary, (x.shape[0], *summary.shape))

  def read(x, garbage):
    recall, opened = cell.recall(layer, own, memory.windows), cell.open(x.shape[0])
    x = x[:, :W].at[:, 4:].set(garbage)
    valid = jnp.broadcast_to(jnp.arange(W) < 4, x.shape[:2])
    place = jnp.zeros(x.shape[0], jnp.int32)
    x, new = cell.context(layer, x, place, valid, recall, opened)
    opened = cell.append(opened, new, place, valid)
    return x[:, :4], *cell.close(layer, u, recall, opened)

  read = jit(read)
  assert_close(read(x, jnp.float64(1e3)), read(x, jnp.float64(-7.0)), 0.0, 0.0)


# -- A third order of the walk --------------------------------------------------------------------


def read_by_diagonals(config, layers, x, summary, memory, positions, ids):
  """All cells with layer + window = t at once, by `vmap` over layers of one spec."""
  windows, (run,) = plan(config, memory.windows, positions, ids), config.runs()
  cell, layer = make_cell(config, run.spec, jnp.float64), jnp.arange(config.num_layers)
  params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
  before = LayerMemory(memory.short, memory.long)
  fixed, state = jax.vmap(cell.begin, (0, 0, None))(params, before, windows)
  num_windows = len(windows.starts)
  x_KBWD = jnp.moveaxis(x.reshape(x.shape[0], num_windows, -1, config.emb_dim), 1, 0)
  u_BUD = jnp.broadcast_to(summary, (x.shape[0], *summary.shape))
  x_YBWD = jnp.zeros((config.num_layers, *x_KBWD.shape[1:]))
  u_YBUD = jnp.zeros((config.num_layers, *u_BUD.shape))

  def step(carry, t):
    state, x, u = carry
    index = t - layer
    inside = (index >= 0) & (index < num_windows)
    index = jnp.clip(index, 0, num_windows - 1).astype(jnp.int32)
    x, u = x.at[0].set(x_KBWD[index[0]]), u.at[0].set(u_BUD)
    own = jax.tree.map(lambda leaf: leaf[index], windows)
    result = jax.vmap(cell.window)(params, fixed, state, Streams(x, u), own, index)
    state = select_rows(inside, result.state, state)
    # What a layer gives at step t, the layer above reads at step t + 1.
    carry = state, *(jnp.roll(leaf, 1, 0) for leaf in result.streams[:2])
    return carry, (result.streams.x[-1], result.pushed)

  steps = jnp.arange(config.num_layers + num_windows - 1)
  (state, *_), (tops, pushed) = jax.lax.scan(step, (state, x_YBWD, u_YBUD), steps)
  when = layer + jnp.arange(num_windows)[:, None]  # window k of layer l was read at step l + k
  pushed = jax.tree.map(lambda leaf: leaf[when, layer], pushed)
  after = jax.vmap(cell.end, (0, 0, 1, None))(before, state, pushed, windows)
  y = jnp.moveaxis(tops[config.num_layers - 1 :], 0, 1).reshape(x.shape)
  return jnp.where(ids[..., None] > 0, y, 0), after


@pytest.mark.broad
def test_diagonal_walk_needs_no_other_interface():
  """Every layer here has both memories, so all are of one spec."""
  every = (0, 1, 2)
  config = small_config(num_layers=3, short_term_layers=every, long_term_layers=every)
  arguments = inputs(config)
  y, memory = jit(reader(config))(*arguments)
  by_diagonals, after = jit(functools.partial(read_by_diagonals, config))(*arguments)
  assert_close(by_diagonals, y, 1e-9, 1e-9)
  assert_close(after, LayerMemory(memory.short, memory.long), 1e-9, 1e-9)
