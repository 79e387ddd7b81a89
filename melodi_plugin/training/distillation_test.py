"""The divergence from a teacher against loops over tokens and outcomes, and where it is counted."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.training.distillation import counted, divergence, mean_where, places_in_segment

V = 7


@functools.cache
def logits():
  chance = np.random.default_rng(0)
  return tuple(3 * chance.normal(size=(2, 5, V)).astype(np.float32) for _ in range(2))


def probabilities(logits, temperature):
  weights = [math.exp(float(x) / temperature) for x in logits]
  return [weight / sum(weights) for weight in weights]


def slow(student, teacher, temperature, top_k):
  """Sums over outcomes: the teacher's best tokens one by one, and all others as one."""
  p, q = probabilities(teacher, temperature), probabilities(student, temperature)
  best = sorted(range(V), key=lambda token: -p[token])[: top_k or V]
  others = [token for token in range(V) if token not in best]
  outcomes = [[token] for token in best] + ([others] if others else [])
  total = 0.0
  for tokens in outcomes:
    own, other = sum(p[t] for t in tokens), sum(q[t] for t in tokens)
    total += own * math.log(own / other)
  return total


@pytest.mark.parametrize("top_k", [0, 1, 3, V, V + 1])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_equals_loops(temperature, top_k):
  student, teacher = logits()
  found = divergence(*map(jnp.asarray, logits()), temperature, top_k)
  for row, token in np.ndindex(found.shape):
    expected = slow(student[row, token], teacher[row, token], temperature, top_k)
    assert float(found[row, token]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("top_k", [0, 2])
def test_gradient_equals_differences_of_loops(top_k):
  student, teacher = (leaf[0, 0] for leaf in logits())
  found = jax.grad(divergence)(jnp.asarray(student), jnp.asarray(teacher), 2.0, top_k)
  for token in range(V):
    moved = [student.astype(float) + sign * 1e-4 * np.eye(V)[token] for sign in (1, -1)]
    up, down = (slow(leaf, teacher, 2.0, top_k) for leaf in moved)
    assert float(found[token]) == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-5)


def test_best_tokens_are_never_further_than_all_and_the_same_is_no_way():
  student, teacher = map(jnp.asarray, logits())
  whole = divergence(student, teacher, 1.0, 0)
  for top_k in (1, 2, 4):
    assert bool((divergence(student, teacher, 1.0, top_k) <= whole + 1e-6).all())
    assert np.abs(divergence(teacher, teacher, 1.0, top_k)).max() < 1e-6


def test_sure_teacher_and_student_have_finite_gradients():
  """Nothing is left beside the best tokens."""
  student, teacher = jnp.zeros(V).at[1].set(200.0), jnp.zeros(V).at[0].set(200.0)
  for top_k in (0, 1, 2):
    value, grad = jax.value_and_grad(divergence)(student, teacher, 1.0, top_k)
    assert float(value) == pytest.approx(200.0) and bool(jnp.isfinite(grad).all())


def test_counted_are_tokens_behind_the_first_window_of_what_the_segment_has_of_a_document():
  ids = jnp.asarray([[3] * 12, [1] * 6 + [0, 0] + [2] * 4, [1] * 4 + [2] * 8])
  targets = ids.at[0, 11].set(0)
  places = [[*range(12)], [*range(6), 0, 1, *range(4)], [*range(4), *range(8)]]
  np.testing.assert_array_equal(places_in_segment(ids), places)
  found = counted(ids, targets, 4)
  expected = [[4, 5, 6, 7, 8, 9, 10], [4, 5], [8, 9, 10, 11]]
  assert [list(np.flatnonzero(row)) for row in np.asarray(found)] == expected


def test_mean_is_over_what_is_counted_and_zero_without_any():
  values = jnp.asarray([[1.0, jnp.nan, 3.0]])
  assert float(mean_where(values, jnp.asarray([[True, False, True]]))) == 2
  assert float(mean_where(values, jnp.zeros((1, 3), bool))) == 0
