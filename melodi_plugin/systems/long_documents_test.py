"""One document without an end: counters near 2^31 tokens, and memory after 10,000 windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from melodi_plugin.conformance.stacks import draw, jit, random_layers, read_rows, stack_layers
from melodi_plugin.systems.table import empty_memory
from melodi_plugin.testing import stock
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.tiny import assert_close, random_memory, tiny_config
from melodi_plugin.testing.variants import SYSTEMS, tiny_baseline

CONFIGS = {
  "paper": tiny_config(),
  "paper, empty slots masked": tiny_config(mask_empty_slots=True),
  "graft": stock.stock_config(),
  "graft with a cache": stock.stock_config(cache_tokens=8, sink_tokens=2),
} | {
  name: tiny_baseline(**SYSTEMS[name])
  for name in (
    "transformer_xl",
    "transformer_xl with sinks",
    "whole queue",
    "neighbors",
    "lstm dual",
    "feedback",
  )
}
GRAFTS = {name for name in CONFIGS if name.startswith("graft")}
WINDOWS, LONG = 5, 10_000  # of a segment, and of a whole document
ROWS = 2


def make_reader(name, dtype):
  """Reads one segment of documents that have begun before."""
  config = CONFIGS[name]
  plan = jnp.ones((ROWS, WINDOWS * config.window_length), jnp.int32)  # no position is 0
  schedule = "windows" if name == "feedback" else "layers"

  def read(layers, summary, memory, x):
    stack = stack_layers
    if name in GRAFTS:  # a block casts its own parameters
      stack = stock.sections
      blocks = jax.tree.map(lambda leaf: leaf.astype(dtype), [layer.block for layer in layers])
      layers = [layer._replace(block=block) for layer, block in zip(layers, blocks, strict=True)]
    sections = stack(layers, config, dtype=dtype)
    return read_rows(sections, config, x, summary, memory, plan, plan, schedule=schedule)

  return read


def parameters_of(name, dtype):
  """Random layers, and a table of summary tokens."""
  config = CONFIGS[name]
  with jax.enable_x64(True):  # in which they are drawn
    in_graft = name in GRAFTS
    layers = stock.random_stock_layers(config) if in_graft else random_layers(config, spread=0.4)
    layers = jax.tree.map(np.asarray, layers)
  summary = draw(9, config.summary_tokens, config.emb_dim)
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (layers, summary))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", broad_but(["whole queue"], CONFIGS))
def test_two_billion_tokens_are_read_as_a_thousand_windows(name):
  config = CONFIGS[name]
  memory = random_memory(config, ROWS, windows=1000, dtype=jnp.float64)
  x = jnp.asarray(draw(1, ROWS, WINDOWS * config.window_length, config.emb_dim))
  read = functools.partial(jit(make_reader(name, jnp.float64)), *parameters_of(name, jnp.float64))
  y, expected = read(memory, x)
  for held in (2**31 // config.window_length - 2, 2**31 - 1 - WINDOWS):
    late = memory._replace(windows=jnp.full_like(memory.windows, held))
    own, after = read(late, x)
    assert after.windows.tolist() == [held + WINDOWS] * ROWS
    assert_close((own, after.short, after.long), (y, expected.short, expected.long))


def trained(name, read, layers, summary, dtype):
  """After 30 steps of predicting the next token's vector, memory carried on."""
  config, optimizer = CONFIGS[name], optax.adam(1e-2)

  def loss(parameters, memory, x):
    y, memory = read(*parameters, memory, x)
    return jnp.mean(jnp.square((y[:, :-1] - x[:, 1:]).astype(jnp.float32))), memory

  def step(carry, x):
    parameters, memory, state = carry
    (value, memory), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, memory, x)
    with jax.numpy_dtype_promotion("standard"):  # optax is not written for the strict one
      updates, state = optimizer.update(gradients, state, parameters)
    return (optax.apply_updates(parameters, updates), memory, state), value

  x = jnp.asarray(draw(3, 30, ROWS, WINDOWS * config.window_length, config.emb_dim), dtype)
  parameters = layers, summary
  carry = parameters, empty_memory(config, ROWS), optimizer.init(parameters)
  (parameters, *_), values = jit(lambda carry: jax.lax.scan(step, carry, x))(carry)
  assert values[-1] < values[0]
  return parameters


@pytest.mark.slow
@pytest.mark.parametrize("is_trained", [False, True], ids=["untrained", "trained"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_memory_is_bounded_and_finite_after_ten_thousand_windows(name, dtype, is_trained):
  config, read = CONFIGS[name], make_reader(name, dtype)
  layers, summary = parameters_of(name, jnp.float32)
  if is_trained:
    layers, summary = trained(name, read, layers, summary, dtype)

  def segment(memory, key):
    x = jax.random.normal(key, (ROWS, WINDOWS * config.window_length, config.emb_dim), dtype)
    y, memory = read(layers, summary, memory, x)
    leaves = [leaf for leaf in jax.tree.leaves((y, memory.short, memory.long)) if leaf.size]
    return memory, jnp.stack([jnp.abs(leaf).max().astype(jnp.float32) for leaf in leaves])

  keys = jax.random.split(jax.random.key(0), LONG // WINDOWS)
  memory, largest = jit(lambda: jax.lax.scan(segment, empty_memory(config, ROWS), keys))()
  assert memory.windows.tolist() == [LONG] * ROWS
  assert np.isfinite(largest).all()
  early, late = largest[100:500].max(0), largest[-400:].max(0)
  assert (late < 1.5 * early + 1e-3).all(), (early, late)
