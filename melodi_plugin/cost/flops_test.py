"""Matrix products in closed form against those of the programs that XLA makes, all unrolled."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from melodi_plugin.config.systems import BLOCK_RECURRENT
from melodi_plugin.core.schedules.segment import read_segment
from melodi_plugin.core.stack import Section
from melodi_plugin.cost.flops import model_work, stack_work
from melodi_plugin.systems.table import empty_memory, make_cell, parts
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.products import counted
from melodi_plugin.testing.tiny import tiny_config
from melodi_plugin.testing.variants import SYSTEMS, tiny_baseline

WINDOWS = 4
# Big enough that products are nearly all operations; no length 1, which would not be a product.
SIZES = dict(emb_dim=64, num_heads=2, head_dim=32, mlp_dim=128, window_length=32)
MELODI = dict(summary_tokens=8, short_term_tokens=8, long_term_increment=4, long_term_windows=6)
CONFIGS = {
  "melodi": tiny_config(**SIZES | MELODI),
  "melodi, S is not U": tiny_config(**SIZES | MELODI | dict(short_term_tokens=24)),
  "melodi, no branching": tiny_config(**SIZES | MELODI | dict(summary_branching=False)),
  "melodi, no summary": tiny_config(**SIZES | MELODI | dict(summary_tokens=0)),
  "melodi, no queue": tiny_config(**SIZES | MELODI | dict(long_term_windows=0)),
  "melodi, two queues": tiny_config(**SIZES | MELODI | dict(long_term_layers=(0, 2))),
} | {name: tiny_baseline(**case | SIZES) for name, case in SYSTEMS.items()}


def program(config):
  """The stack over a segment, and the shapes of its arguments."""
  length, batch = WINDOWS * config.window_length, 2

  def make(run):
    with nnx.use_eager_sharding(False):  # there is no mesh here
      make = parts(config, run.spec).params
      module = make(config, run.spec, dtype=jnp.float32, rngs=nnx.Rngs(0))
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * run.length), module.parameters())

  def read(params, summary, x, memory, positions):
    ids = jnp.ones_like(positions)
    sections = [
      Section(run, make_cell(config, run.spec), own)
      for run, own in zip(config.runs(), params, strict=True)
    ]
    feedback = config.system == BLOCK_RECURRENT and config.recurrence.feedback
    schedule = "windows" if feedback else "layers"
    return read_segment(sections, config, x, summary, memory, positions, ids, schedule=schedule)

  arguments = jax.eval_shape(
    lambda: (
      [make(run) for run in config.runs()],
      jnp.zeros((config.summary_tokens, config.emb_dim)),
      jnp.zeros((batch, length, config.emb_dim)),
      empty_memory(config, batch),
      jnp.zeros((batch, length), jnp.int32),
    )
  )
  return read, arguments, batch


def xla_products(text):
  """Operations of the `dot`s in a program of XLA."""
  shapes = {
    name: list(map(int, filter(None, dims.split(","))))
    for name, dims in re.findall(r"(%[\w.-]+) = \w+\[([\d,]*)\]", text)
  }
  total = 0
  for name, left, contracted in re.findall(
    r"(%[\w.-]+) = \w+\[[\d,]*\]\S* dot\((%[\w.-]+),.*?lhs_contracting_dims={([\d,]*)}", text
  ):
    inner = [shapes[left][int(axis)] for axis in contracted.split(",")]
    total += 2 * math.prod(shapes[name]) * math.prod(inner)
  return total


@pytest.fixture
def unrolled(monkeypatch):
  """XLA counts the body of a loop once, so there must be no loop."""
  monkeypatch.setattr(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True))


def unread(config):
  """Products that XLA leaves out of an unrolled stack, because nobody reads their results.

  The summary mixer of the last layer, and keys and values of what the last window adds to a queue.
  """
  mixer = 2 * config.mixer_inputs * config.summary_tokens * config.emb_dim * WINDOWS
  increments = sum(spec.increment for spec in config.layers if spec.mixed)
  pairs = 4 * increments * config.emb_dim * config.num_heads * config.head_dim
  return mixer * config.layers[-1].mixes_summary + pairs


# The slow ones add no kind of product to those of the others.
XLA = ("melodi", "neighbors", "transformer_xl", "whole queue", "lstm dual", "feedback")
GRADIENTS = ("melodi", "neighbors", "lstm dual", "transformer_xl", "whole queue")


@pytest.mark.parametrize("name", broad_but(XLA[:1], XLA, slow=XLA[2:]))
def test_forward_products_are_those_of_xla(name, unrolled):
  config = CONFIGS[name]
  read, arguments, batch = program(config)
  compiled = (
    jax.jit(read).lower(*arguments).compile(compiler_options={"xla_backend_optimization_level": 0})
  )
  text = compiled.as_text()
  assert " while(" not in text
  found = xla_products(text)
  assert batch * (sum(stack_work(config, WINDOWS).all) - unread(config)) == found
  assert unread(config) < 0.01 * sum(stack_work(config, WINDOWS).all)
  # XLA's own count has elementwise operations too, which are few.
  assert found < compiled.cost_analysis()["flops"] < 1.08 * found


# -- Loops and gradients: products of the traced program -------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_products_are_those_of_the_traced_program(name):
  config = CONFIGS[name]
  read, arguments, batch = program(config)
  work = stack_work(config, WINDOWS).all
  assert batch * sum(work) == counted(read, arguments)


@pytest.mark.parametrize("name", broad_but(GRADIENTS[:1], GRADIENTS, slow=GRADIENTS[3:]))
def test_training_products_are_those_of_the_traced_program(name):
  config = CONFIGS[name]
  read, arguments, batch = program(config)

  def loss(params, summary, x, memory, positions):
    y, memory = read(params, summary, x, memory, positions)
    return jnp.sum(jnp.square(y)), memory

  step = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
  work = stack_work(config, WINDOWS).all
  assert batch * work.training == counted(step, arguments)


def test_model_adds_the_output_head_and_training_is_three_times_forward():
  config, length = CONFIGS["melodi"], WINDOWS * SIZES["window_length"]
  work = model_work(config, length, vocab_size=100)
  head = 2 * length * config.emb_dim * 100
  assert sum(work.all) == sum(stack_work(config, WINDOWS).all) + head
  assert work.all.training == 3 * sum(work.all)
  assert sum(work.all) == sum(work.weights) + sum(work.attention)
