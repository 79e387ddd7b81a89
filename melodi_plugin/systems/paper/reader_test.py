"""The paper's cell: one window by its verbs."""

import jax
import jax.numpy as jnp
import pytest

from melodi_plugin.conformance.stacks import jit, plan
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.segments import reset
from melodi_plugin.systems.table import make_cell
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.segments import W, draw, inputs, small_config
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
