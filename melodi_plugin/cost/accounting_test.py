"""Closed forms against the sizes of real parameters and memory, and against published numbers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from melodi_plugin.bench.windows import CONFIG as BENCHMARK
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.conformance.stacks import random_layers, stack_layers
from melodi_plugin.core import decoding
from melodi_plugin.core.attention import T5_BUCKETS
from melodi_plugin.cost.accounting import (
  T5_TABLE,
  MemoryNumbers,
  decode_state,
  keys_and_values,
  layer_parameters,
  memory_numbers,
  memory_parameters,
  paper_memory,
  parameters,
  row_bytes,
)
from melodi_plugin.systems.paper.params import small_init
from melodi_plugin.systems.params import summary_embeddings
from melodi_plugin.systems.stock.params import StockMemoryParams
from melodi_plugin.systems.table import empty_memory, make_cell, parts
from melodi_plugin.testing import stock
from melodi_plugin.testing.tiny import TINY, tiny_config
from melodi_plugin.testing.variants import SYSTEMS, VARIANTS, tiny_baseline

PAPER = MelodiConfig(
  num_layers=12,
  emb_dim=1024,
  num_heads=8,
  head_dim=128,
  mlp_dim=4096,
  window_length=512,
  summary_tokens=64,
  short_term_tokens=64,
  long_term_increment=32,
  long_term_windows=128,
  long_term_layers=(6,),
  short_term_layers=tuple(range(12)),
)
MORE = {
  "more short than summary": dict(short_term_tokens=7),
  "some layers without short": dict(short_term_layers=(0,)),
  "long layer without short": dict(short_term_layers=(0, 2)),
  "no layer is short or long": dict(short_term_layers=(), long_term_layers=()),
  "no summary, no branching": dict(summary_tokens=0, short_term_tokens=0, summary_branching=False),
  "no short, no branching": dict(short_term_tokens=0, summary_branching=False),
  "head size is not width / heads": dict(num_heads=3, head_dim=5, mlp_dim=7),
}
CONFIGS = {name: tiny_config(**case) for name, case in (VARIANTS | MORE).items()}
CONFIGS |= {"the paper's size": PAPER, "the benchmark's size": BENCHMARK}


CONFIGS |= {name: tiny_baseline(**case) for name, case in SYSTEMS.items()}


# By hand from SEMANTICS 1.10.  A tiny layer without mixers has 2194 numbers, a full mixer 84.
BY_HAND = {
  "paper": 3 * (2194 + 84 + 84) + (26 + 16) + 80,
  "summary differs from short": 3 * (2194 + 84 + 39) + (26 + 16) + 80,
  "no short-term memory": 3 * 2194 + (84 + 26 + 16) + 80,
  "no branching": 3 * 2194 + (26 + 16) + 80,
  "no summary": 3 * (2194 + 36) + (18 + 16) + 16,
  "no increment": 3 * (2194 + 84 + 84) + 80,
  "no queue": 3 * (2194 + 84 + 84) + 80,
  "no position": 3 * (2194 - 64 + 84 + 84) + (26 + 16) + 80,
  "some layers without short": 3 * 2194 + (84 + 84) + (84 + 26 + 16) + 80,
}


def numbers(make):
  """How many numbers the parameters of a module hold, without making them."""
  with nnx.use_eager_sharding(False):  # there is no mesh here
    shapes = jax.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)), nnx.Param))
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", CONFIGS)
def test_closed_form_equals_sizes_of_real_parameters(name):
  config = CONFIGS[name]

  def layer(spec):
    module = parts(config, spec).params
    return numbers(lambda rngs: module(config, spec, dtype=jnp.float32, rngs=rngs))

  def table(rngs):
    return nnx.Dict(table=summary_embeddings(config, small_init, dtype=jnp.float32, rngs=rngs))

  by_spec = {spec: layer(spec) for spec in set(config.layers)}
  assert {spec: layer_parameters(config, spec) for spec in by_spec} == by_spec
  stack = sum(by_spec[spec] for spec in config.layers) + numbers(table) + config.emb_dim
  assert parameters(config) == stack


@pytest.mark.parametrize("name", BY_HAND)
def test_closed_form_equals_count_by_hand(name):
  assert parameters(CONFIGS[name]) == BY_HAND[name]


def test_benchmark_size_has_the_references_count():
  assert parameters(BENCHMARK) == 9_606_200


def test_paper_size_has_the_references_counts():
  assert layer_parameters(PAPER, PAPER.layer(0)) == 12_668_296
  assert parameters(PAPER) == 152_105_600
  assert parameters(PAPER, vocab_size=32128) == 185_004_672


@pytest.mark.parametrize("name", CONFIGS)
def test_memory_numbers_equal_sizes_of_real_memory(name):
  memory = jax.eval_shape(lambda: empty_memory(CONFIGS[name], batch=1))
  counted = memory_numbers(CONFIGS[name])
  assert counted == MemoryNumbers(memory.short.size, memory.long.size)
  assert counted.all == memory.short.size + memory.long.size


def test_paper_size_remembers_five_million_numbers():
  assert memory_numbers(PAPER) == (12 * 64 * 1024, 4096 * 1024)
  assert memory_numbers(PAPER).all == 4_980_736


def test_t5_table_is_the_one_that_attention_reads():
  assert T5_TABLE == T5_BUCKETS


AROUND = dict(base_block="llama2", num_kv_heads=1, mask_empty_slots=True)
# SmolLM2-135M with windows of 256 tokens.
SMALL = MelodiConfig(
  num_layers=30,
  emb_dim=576,
  num_heads=9,
  head_dim=64,
  mlp_dim=1536,
  window_length=256,
  summary_tokens=16,
  short_term_tokens=128,
  long_term_increment=16,
  long_term_windows=64,
  long_term_layers=(15,),
  short_term_layers=tuple(range(30)),
  **{**AROUND, "num_kv_heads": 3},
)


@pytest.mark.parametrize(
  "changes",
  [
    {},
    dict(num_attentions=2),
    dict(short_term_tokens=0),
    dict(short_term_tokens=3),
    dict(long_term_windows=0),
    dict(summary_tokens=0),
    dict(summary_branching=False),
    dict(cache_tokens=5, sink_tokens=2),
    dict(cache_tokens=5, short_term_tokens=0),
  ],
)
def test_closed_form_equals_sizes_of_what_memory_adds(changes):
  config = tiny_config(**AROUND | changes)

  def layer(spec):
    return numbers(lambda rngs: StockMemoryParams(config, spec, offset=0.0, gate=2.0, rngs=rngs))

  table = config.summary_tokens * config.emb_dim
  assert memory_parameters(config) == sum(map(layer, config.layers)) + table


@pytest.mark.parametrize("name", CONFIGS)
def test_decode_state_equals_sizes_of_an_open_window(name):
  config = CONFIGS[name]
  state = decode_state(config)
  opened = [
    jax.eval_shape(lambda spec=spec: make_cell(config, spec, jnp.bfloat16).open(1))
    for spec in config.layers
  ]
  assert state.past == memory_numbers(config)
  assert state.window == sum(one.tokens.key.size + one.tokens.value.size for one in opened)
  assert state.entries == sum(leaf.size for leaf in jax.tree.leaves([one[1:] for one in opened]))
  assert state.all == state.past.all + state.window + state.entries


def slot_bytes(config, sections_of):
  """Of a row that an engine keeps."""
  rows = jax.eval_shape(lambda: decoding.begin(sections_of(), empty_memory(config, 1)))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(rows))


@pytest.mark.parametrize("name", [*VARIANTS, *MORE, *SYSTEMS])
def test_bytes_of_a_slot_equal_sizes_of_a_row_of_an_engine(name):
  config = CONFIGS[name]
  layers = random_layers(config, dtype=jnp.float32)
  found = slot_bytes(config, lambda: stack_layers(layers, config, dtype=jnp.bfloat16))
  assert row_bytes(config, memory_bytes=4, cache_bytes=2) == found


CACHED = dict(cache_tokens=7, sink_tokens=2)


@pytest.mark.parametrize("changes", [{}, CACHED, CACHED | dict(short_term_tokens=0)])
def test_bytes_of_a_slot_around_a_block_of_two_attentions(float64, changes):
  config = stock.stock_config(**changes)
  layers = stock.random_stock_layers(config)  # kept by a cache, so made outside of what is traced
  found = slot_bytes(config, lambda: stock.sections(layers, config))
  assert row_bytes(config, memory_bytes=4, cache_bytes=8) == found
  memory = empty_memory(config, batch=1)
  short = sum(leaf.size for leaf in jax.tree.leaves(memory.short))
  assert memory_numbers(config) == paper_memory_of_pairs(config) == (short, memory.long.size)


def paper_memory_of_pairs(config):
  """The paper's count, but for keys and values of the queue."""
  counted = paper_memory(config)
  return counted._replace(long=counted.long // 2)


def test_decode_state_of_a_grafted_model_beside_the_stock_one():
  state = decode_state(SMALL)
  assert state.past == (30 * 128 * 576, 1024 * 576)
  assert state.window == 2 * 30 * 3 * 64 * 256
  assert state.entries == 30 * 256 * 576
  assert keys_and_values(layers=30, heads=3, head_dim=64, tokens=8192) == 2 * 30 * 3 * 64 * 8192
  assert state.size(memory_bytes=4, cache_bytes=2) == (
    4 * state.past.all,
    4 * state.past.all + 2 * (state.window + state.entries),
  )


def test_a_cache_of_grouped_heads_takes_fewer_numbers_than_tokens():
  cached = dataclasses.replace(SMALL, short_term_tokens=0, cache_tokens=256, sink_tokens=4)
  assert memory_numbers(cached).short == 30 * 260 * 2 * 3 * 64 < 30 * 260 * 576
  assert decode_state(cached).entries == 256 * 576  # in the layer with a queue only


def test_the_paper_counts_keys_and_values_of_queues_and_caches():
  counted = paper_memory(PAPER)
  assert counted == (12 * 64 * 1024, 2 * 4096 * 1024)
  width, window = TINY["emb_dim"], TINY["window_length"]
  assert paper_memory(CONFIGS["transformer_xl"]) == (2 * window * 3 * width, 0)
  # The layer with a queue has no cache, unless it retrieves.
  queue = 2 * 3 * window * width
  assert paper_memory(CONFIGS["whole queue"]) == (2 * window * 2 * width, queue)
  assert paper_memory(CONFIGS["neighbors"]) == (2 * window * 3 * width, queue)
  # States stand in the place of a cache, and are short-term memory.
  assert paper_memory(CONFIGS["bias skip"]) == (2 * window * 2 * width + 6 * width, 0)
  assert paper_memory(CONFIGS["feedback"]) == paper_memory(CONFIGS["bias skip"])
  # How we store it does not matter.
  for name in ("transformer_xl", "whole queue", "neighbors"):
    other = name + " as in the official code"
    assert paper_memory(CONFIGS[name]) == paper_memory(CONFIGS[other])
