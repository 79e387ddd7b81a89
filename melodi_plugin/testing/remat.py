"""Two rows that read a segment with every cell rematerialized, in two kinds of layers."""

import functools

import jax

from melodi_plugin.conformance.stacks import document_rows, read_rows
from melodi_plugin.testing import segments, stock
from melodi_plugin.testing.tiny import random_memory

HEADS, WIDTH = 7, 16  # no other axis behind the batch is as long as one of these
REMAT = functools.partial(jax.checkpoint, prevent_cse=False)


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
