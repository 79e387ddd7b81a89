"""Attention in chunks of slots against attention with all logits: outputs, gradients, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from melodi_plugin.core.attention import attend
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.core.many_slots import How, are_many, attend_to_many
from melodi_plugin.systems.paper import layer as paper_layer
from melodi_plugin.systems.stock import reader as stock_reader
from melodi_plugin.systems.stock.reader import grouped_attention
from melodi_plugin.testing import segments
from melodi_plugin.testing.remat import around_stock, paper

BATCH, COUNT, HEADS, SIZE = 2, 5, 4, 3


def inputs(slots: int, groups: int = HEADS):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
  visible = rng.random((BATCH, slots)) < 0.7
  query = 3 * draw(BATCH, COUNT, HEADS, SIZE)
  key, value = draw(BATCH, slots, groups, SIZE), draw(BATCH, slots, groups, SIZE)
  return (query, key, value, draw(HEADS)), jnp.asarray(visible), draw(*query.shape)


def compare(found, expected, given, weights):
  """Outputs and gradients of two functions."""
  for name, function in (("found", found), ("expected", expected)):
    value = lambda *own, f=function: (jnp.sum(f(*own) * weights), f(*own))  # noqa: E731
    result = jax.jit(jax.grad(value, argnums=(0, 1, 2, 3), has_aux=True))(*given)
    found, expected = (result, expected) if name == "found" else (found, result)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), found, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("slots, chunk", [(16, 4), (13, 4), (3, 4), (9, 9)])
def test_chunks_are_attention_with_a_null_slot(slots, chunk):
  given, visible, weights = inputs(slots)
  visible = visible.at[1].set(False)  # this row sees nothing: zeros, and no gradient

  def all_at_once(query, key, value, temperature):
    return attend(query, key, value, temperature, visible[:, None])

  def chunked(query, key, value, temperature):
    how = How(null=True, chunk=chunk)
    return attend_to_many(query, key, value, jnp.abs(temperature), visible, how)

  compare(chunked, all_at_once, given, weights)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("soft_cap", [None, 2.0])
def test_chunks_are_grouped_attention(soft_cap):
  given, visible, weights = inputs(13, groups=2)

  def all_at_once(query, key, value, _):
    return grouped_attention(
      query, KeyValues(key, value, visible), visible[:, None], soft_cap, None
    )

  def chunked(query, key, value, _):
    how = How(soft_cap, chunk=4)
    return attend_to_many(query, key, value, jnp.ones(HEADS), visible, how)

  compare(chunked, all_at_once, given, weights)


@pytest.mark.usefixtures("float64")
def test_a_row_that_sees_nothing_has_no_gradient_and_is_finite():
  given, visible, _ = inputs(13, groups=2)
  how, none = How(chunk=4), jnp.zeros_like(visible)
  value = lambda *own: attend_to_many(*own, none, how)  # noqa: E731
  out, pull = jax.vjp(value, *given)
  assert all(np.isfinite(leaf).all() for leaf in (out, *pull(jnp.ones_like(out))))


@pytest.mark.usefixtures("float64")
def test_dropout_drops_weights_and_its_gradients_are_those_of_what_is_left():
  given, visible, _ = inputs(13)
  how, rng = How(null=True, dropout_rate=0.4, chunk=4), jax.random.key(1)
  chunked = jax.jit(lambda *own: attend_to_many(*own, visible, how, rng))
  check_grads(chunked, given, order=1, modes=["rev"])
  rows = jax.vmap(lambda rng: attend_to_many(*given, visible, how, rng))(
    jax.random.split(rng, 4000)
  )
  without = attend_to_many(*given, visible, how._replace(dropout_rate=0.0))
  assert np.abs(chunked(*given) - without).max() > 0.05
  np.testing.assert_allclose(rows.mean(0), without, atol=6 * float((rows.std(0) / 4000**0.5).max()))


@pytest.mark.broad
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("make", [paper, around_stock])
def test_a_segment_is_the_same_whether_its_slots_are_many_or_few(make, monkeypatch):
  asked = []

  def many(queries, slots):
    asked.append(slots)
    return True

  results = []
  for module in (paper_layer, stock_reader):
    monkeypatch.setattr(module, "are_many", lambda queries, slots: False)
  for _ in range(2):
    read, arguments = make("layers")
    run = jax.jit(functools.partial(segments.value_and_grads, read))
    results.append(run(*arguments[:4], arguments[1], *arguments[4:]))
    for module in (paper_layer, stock_reader):
      monkeypatch.setattr(module, "are_many", many)
  assert asked
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-10), *results)


def test_logits_of_all_slots_are_never_in_memory():
  slots, count = 8192, 256
  assert are_many(count, slots) and not are_many(1, 16 * slots)
  shape = jax.ShapeDtypeStruct((1, slots, 1, 64), jnp.float32)
  query = jax.ShapeDtypeStruct((1, count, 8, 64), jnp.float32)
  visible = jnp.ones((1, slots), bool)

  def loss(query, key, value):
    return attend_to_many(query, key, value, jnp.ones(8), visible, How()).sum()

  step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(query, shape, shape).compile()
  logits = 4 * 8 * count * slots
  assert step.memory_analysis().temp_size_in_bytes < 0.6 * logits, step.memory_analysis()
