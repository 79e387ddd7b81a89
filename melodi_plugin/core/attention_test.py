"""The attention core against SEMANTICS 1.1 and 1.5 written out in numpy, in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.core.attention import (
  NULL_LOGIT,
  attend,
  attention_weights,
  dropout,
  gate_heads,
  rms_norm,
  t5_bias,
  t5_bias_of_window,
  t5_buckets,
  unit_norm,
)

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
B, N, H = 2, 2, 4


def draw(*shape, seed=0, dtype=jnp.float64):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


# -- Norms ----------------------------------------------------------------------------------------


def test_rms_norm_has_epsilon_inside_the_root(float64):
  x, gain = 1e-3 * draw(2, 3, 8), draw(8, seed=1)
  expected = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * gain
  np.testing.assert_allclose(rms_norm(x, gain), expected, rtol=1e-12)


def test_unit_norm_has_epsilon_on_the_sum(float64):
  x = 1e-3 * draw(B, 3, N, H)
  expected = x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(unit_norm(x), expected, rtol=1e-12)


@pytest.mark.parametrize("norm", [unit_norm, lambda x: rms_norm(x, jnp.ones(H))])
def test_norm_of_a_zero_vector_is_zero_with_a_finite_gradient(norm):
  x = jnp.zeros((1, 1, 1, H))
  assert not norm(x).any()
  assert jnp.isfinite(jax.grad(lambda x: norm(x).sum())(x)).all()


@pytest.mark.parametrize("norm", [unit_norm, lambda x: rms_norm(x, jnp.ones(512))])
def test_norms_of_bfloat16_have_float32_statistics(norm):
  x = draw(1, 4, 1, 512, dtype=jnp.bfloat16)
  result = norm(x)
  assert result.dtype == jnp.bfloat16
  assert (result == norm(x.astype(jnp.float32)).astype(jnp.bfloat16)).all()


# -- Positions ------------------------------------------------------------------------------------

FIRST_DISTANCES = [16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]


def test_buckets_start_at_the_references_distances():
  buckets = t5_buckets(700)
  assert buckets[:16].tolist() == list(range(16))
  assert [int(np.argmax(buckets == bucket)) for bucket in range(16, 32)] == FIRST_DISTANCES
  assert (buckets[113:] == 31).all()


def test_buckets_equal_the_references_formula():
  def bucket(distance):
    return min(31, 16 + math.floor(math.log(distance / 16) / math.log(8) * 16))

  assert t5_buckets(700)[16:].tolist() == [bucket(distance) for distance in range(16, 700)]


@pytest.mark.parametrize("distances", [1, 5, 16, 17, 50])
def test_buckets_do_not_depend_on_how_many_are_asked_for(distances):
  assert t5_buckets(distances).tolist() == t5_buckets(700)[:distances].tolist()


def test_bias_of_a_query_is_looked_up_by_its_distance_to_each_slot(float64):
  table = draw(N, 32)
  places = np.array([[0, 3], [40, 199]], np.int32)
  bias = t5_bias(table, jnp.asarray(places), 200)
  buckets = t5_buckets(200)[np.maximum(places[..., None] - np.arange(200), 0)]
  np.testing.assert_array_equal(bias, np.moveaxis(np.asarray(table)[:, buckets], 0, 1))


@pytest.mark.parametrize(
  "queries, slots", [(1, 1), (1, 40), (2, 2), (7, 7), (5, 6), (12, 16), (200, 264)]
)
def test_bias_of_a_window_equals_the_general_one_with_its_gradient(float64, queries, slots):
  table, weights = draw(N, 32), draw(1, N, queries, slots, seed=1)
  places = jnp.arange(slots - queries, slots, dtype=jnp.int32)[None]

  def value_and_gradient(bias):
    value, pull = jax.vjp(bias, table)
    return value, *pull(weights)

  window = jit(lambda: value_and_gradient(lambda t: t5_bias_of_window(t, queries, slots)))()
  general = jit(lambda: value_and_gradient(lambda t: t5_bias(t, places, slots)))()
  np.testing.assert_array_equal(window[0], general[0])
  np.testing.assert_allclose(window[1], general[1], rtol=1e-10, atol=1e-12)


# -- Attention ------------------------------------------------------------------------------------


def softmax_with_null(logits):
  """Weights of all keys when a logit of -1000 takes part in the sum."""
  top = np.maximum(logits.max(-1, keepdims=True), NULL_LOGIT)
  weights = np.exp(logits - top)
  return weights / (weights.sum(-1, keepdims=True) + np.exp(NULL_LOGIT - top))


def test_attention_has_bias_inside_the_temperature_and_mask_outside(float64):
  query, key, value = draw(B, 3, N, H), draw(B, 5, N, H, seed=1), draw(B, 5, N, H, seed=2)
  bias, temperature = draw(1, N, 3, 5, seed=3), jnp.array([0.7, -2.0])
  visible = np.random.default_rng(4).random((B, 3, 5)) < 0.7
  result = attend(query, key, value, temperature, jnp.asarray(visible), bias)

  logits = np.einsum("btnh,bsnh->bnts", query, key) + np.asarray(bias)
  logits *= np.array([0.7, 2.0])[:, None, None]
  weights = softmax_with_null(np.where(visible[:, None], logits, -1e6))
  expected = np.einsum("bnts,bsnh->btnh", weights, value)
  np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def test_query_that_sees_nothing_gives_exactly_zero_and_no_gradient():
  query, key, value = (draw(1, 2, N, H, seed=seed, dtype=jnp.float32) for seed in range(3))
  visible = jnp.array([[[False, False], [True, True]]])

  def result(query, key, value):
    return attend(query, key, value, jnp.full(N, 3.0), visible)

  out = jit(result)(query, key, value)
  assert (out[:, 0] == 0).all()
  assert (out[:, 1] != 0).all()
  blind = jit(jax.grad(lambda *x: result(*x)[:, 0].sum(), argnums=(0, 1, 2)))(query, key, value)
  assert all((leaf == 0).all() for leaf in blind)


def test_attention_without_keys_gives_zeros():
  query, none = draw(B, 3, N, H, dtype=jnp.float32), jnp.zeros((B, 0, N, H))
  out = attend(query, none, none, jnp.ones(N), jnp.ones((B, 1, 0), bool))
  assert out.shape == (B, 3, N, H)
  assert not out.any()


def test_null_slot_shares_the_sum_with_keys_of_its_logit():
  logits = jnp.array([[[[-1000.0], [-1000.0 + math.log(3)], [0.0]]]])
  weights = attention_weights(logits, jnp.ones((1, 1, 1), bool))
  np.testing.assert_allclose(weights[0, 0, :, 0], [0.5, 0.75, 1.0], rtol=1e-4)


def test_weights_do_not_overflow():
  weights = attention_weights(jnp.array([[[[1e5, 1e5, -1e5]]]]), jnp.ones((1, 1, 3), bool))
  np.testing.assert_array_equal(weights[0, 0, 0], [0.5, 0.5, 0.0])


def test_attention_of_bfloat16_has_float32_logits_and_softmax():
  heads = [draw(1, size, N, 64, seed=size, dtype=jnp.bfloat16) for size in (3, 600, 601)]
  query, key, value = unit_norm(heads[0]), unit_norm(heads[1]), heads[2][:, :600]
  # Keys near the queries: logits near 40, where bfloat16 is coarser than 0.1.
  key = unit_norm(key * 0.2 + query[:, :1])
  temperature, visible = jnp.full(N, 40.0), jnp.ones((1, 1, 600), bool)
  result = attend(query, key, value, temperature, visible)
  wide = attend(*(x.astype(jnp.float32) for x in (query, key, value)), temperature, visible)
  assert result.dtype == jnp.bfloat16
  np.testing.assert_allclose(result.astype(jnp.float32), wide, atol=2e-3, rtol=2**-7)


def test_gate_stands_between_self_and_cross_per_head_and_channel():
  own, cross = jnp.full((B, 3, N, H), 2.0), jnp.full((B, 3, N, H), 6.0)
  gate = jnp.zeros((N, H)).at[0, 1].set(jnp.inf).at[1, 2].set(-jnp.inf)
  expected = np.full((N, H), 4.0)
  expected[0, 1], expected[1, 2] = 2.0, 6.0
  np.testing.assert_array_equal(
    gate_heads(gate, own, cross), np.broadcast_to(expected, (B, 3, N, H))
  )


def test_gate_keeps_the_dtype_of_the_activations():
  heads = jnp.ones((B, 3, N, H), jnp.bfloat16)
  assert gate_heads(jnp.zeros((N, H)), heads, heads).dtype == jnp.bfloat16


# -- Dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key, rate", [(None, 0.3), (jax.random.key(0), 0.0), (None, 0.0)])
def test_dropout_without_key_or_rate_is_the_identity(key, rate):
  x = jnp.arange(6.0)
  assert dropout(key, rate, x) is x


def test_dropout_keeps_the_expectation():
  x = jnp.full((100, 100), 2.0)
  dropped = dropout(jax.random.key(0), 0.25, x)
  np.testing.assert_allclose(np.unique(dropped), [0.0, 2.0 / 0.75], rtol=1e-6)
  assert abs((dropped == 0).mean() - 0.25) < 0.02
  assert abs(dropped.mean() - 2.0) < 0.05


def test_dropout_is_given_by_its_key():
  x, one, other = jnp.ones(64), jax.random.key(1), jax.random.key(2)
  np.testing.assert_array_equal(dropout(one, 0.5, x), dropout(one, 0.5, x))
  assert (dropout(one, 0.5, x) != dropout(other, 0.5, x)).any()


def test_attention_drops_normalised_weights_and_does_not_normalise_again():
  zeros, ones = jnp.zeros((1, 8, N, H)), jnp.ones((1, 8, N, H))
  arguments = dict(dropout_rng=jax.random.key(0), dropout_rate=0.5)
  out = attend(zeros, zeros, ones, jnp.ones(N), jnp.ones((1, 1, 8), bool), **arguments)
  # Eight equal weights of which k are kept and doubled: 2 k / 8.
  kept = np.asarray(out) * 4
  np.testing.assert_allclose(kept, kept.round(), atol=1e-5)
  assert len(np.unique(kept.round())) > 2
