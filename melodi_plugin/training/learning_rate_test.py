"""The paper's learning rate against values that the reference recorded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.training.learning_rate import paper_schedule

# Recorded from the official implementation; base rate 0.01, final rate 0.001, warm-up 1000.
STEPS = (0, 1, 10, 500, 999, 1000, 1001, 25000, 50000, 99999, 100000, 150000, 200000, 300000)
RECORDED = {
  100_000: (
    *(0.0, 9.997778761317022e-06, 9.997778397519141e-05, 0.004998889286071062),
    *(0.009987780824303627, 0.009997778572142124, 0.009997774846851826, 0.008681979961693287),
    *(0.00549999950453639, 0.0010000000474974513, 0.0010000000474974513, 0.0007071067811921239),
    *(0.0005000000237487257, 0.0002500000118743628),
  ),
  500_000: (
    *(0.0, 9.999910616897978e-06, 9.999910253100097e-05, 0.0049999551847577095),
    *(0.009989910759031773, 0.009999910369515419, 0.009999910369515419, 0.009944597259163857),
    *(0.009779754094779491, 0.009140592999756336, 0.009140576235949993, 0.00814503338187933),
    *(0.006890576332807541, 0.00410942267626524),
  ),
}


@pytest.mark.parametrize("decay_steps", RECORDED)
def test_recorded_values(decay_steps):
  schedule = paper_schedule(0.01, 0.1, 1000, decay_steps)
  np.testing.assert_allclose(schedule(np.array(STEPS)), RECORDED[decay_steps], rtol=1e-6)


def test_warm_up_and_decay_have_their_exact_lengths():
  schedule = paper_schedule(1.0, 0.1, 4, 8)
  values = np.asarray(schedule(np.arange(33)))
  np.testing.assert_allclose(values[:5], 0.55 * np.arange(5) / 4, rtol=1e-6)
  np.testing.assert_allclose(values[8:33:8], [0.1, 0.05, 0.025, 0.0125], rtol=1e-6)
  assert (np.diff(values[4:]) < 0).all()


def test_without_warm_up_step_zero_has_the_full_rate():
  assert float(paper_schedule(0.3, 0.0, 0, 10)(0)) == pytest.approx(0.3)


def test_counts_of_a_compiled_optimizer_are_steps():
  schedule = paper_schedule(0.01, 0.1, 2, 10)
  assert jax.jit(schedule)(jnp.int32(1)) == schedule(1) > 0
