"""No loop keeps masks of attention for the backward pass: they are made again from the plan."""

import functools

import jax
import pytest

from melodi_plugin.conformance.stacks import document_rows, read_rows
from melodi_plugin.testing import segments, stock
from melodi_plugin.testing.products import inner_jaxprs
from melodi_plugin.testing.tiny import random_memory

pytestmark = pytest.mark.usefixtures("float64")

HEADS = 7  # a number that no other axis behind the batch has, and so has the
WIDTH = 16
REMAT = functools.partial(jax.checkpoint, prevent_cse=False)


def kept_masks(jaxpr):
  """Shapes of the booleans of every head or channel that go into loops and come out of them."""
  shapes = set()
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "scan":
      shapes |= {v.aval.shape for v in (*eqn.invars, *eqn.outvars) if v.aval.dtype == bool}
    shapes.update(*map(kept_masks, inner_jaxprs(eqn)))
  return {shape for shape in shapes if {HEADS, WIDTH} & {*shape[2:]}}


def paper(schedule):
  """A reader of the paper's layers, and what it reads, in two rows."""
  config = segments.small_config(num_heads=HEADS, mask_empty_slots=True)
  assert config.emb_dim == WIDTH
  layers, x, summary, memory, positions, ids = segments.inputs(config)
  read = segments.reader(config, schedule=schedule, remat=REMAT)
  memory = memory._replace(short=memory.short[:, :2], long=memory.long[:, :2])
  memory = memory._replace(windows=memory.windows[:2])
  return read, (layers, x[:2], summary, memory, positions[:2], ids[:2])


def around_stock(schedule):
  """The same of stock blocks."""
  config = stock.stock_config(num_heads=HEADS, short_term_tokens=4)
  assert config.emb_dim == WIDTH

  def read(layers, *arguments):
    sections = stock.sections(layers, config)
    return read_rows(sections, config, *arguments, schedule=schedule, remat=REMAT)

  memory = random_memory(config, 2, windows=2, dtype=float)
  x = segments.draw(2, stock.SEGMENT, config.emb_dim)
  summary = segments.draw(config.summary_tokens, config.emb_dim, seed=1)
  plan = document_rows([[-9, 4], [16]], stock.SEGMENT, stock.W)
  return read, (stock.random_stock_layers(config), x, summary, memory, *plan)


@pytest.mark.parametrize("schedule", ["layers", "windows"])
@pytest.mark.parametrize("make", [paper, around_stock])
def test_no_mask_of_every_head_or_channel_is_kept(make, schedule):
  read, arguments = make(schedule)
  weights = arguments[1]
  run = functools.partial(segments.value_and_grads, read)
  jaxpr = jax.make_jaxpr(run)(*arguments[:4], weights, *arguments[4:])
  kept = kept_masks(jaxpr.jaxpr)
  assert not kept, kept
