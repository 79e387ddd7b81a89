"""What is said of seconds that were taken: ratios round by round, shares, growth."""

import jax
import numpy as np
import pytest

from melodi_plugin.bench import figures
from melodi_plugin.bench.systems import Limit, Read, Trained
from melodi_plugin.bench.timing import Seconds, Watch, medians, products


def seconds(*cpu: int) -> list[Seconds]:
  """On the CPU of the tests these are compared; the clock runs twice as long."""
  return [Seconds(2.0 * own, float(own)) for own in cpu]


def trained(steps: list[Seconds], operations: float) -> Trained:
  return Trained(10, operations, 100, 1_000, Seconds(1.0, 1.0), steps)


def test_systems_are_compared_in_the_same_round():
  """The third round is slow for both; medians of each would say 1.33."""
  xl, other = trained(seconds(1, 3, 9), 10.0), trained(seconds(2, 4, 18), 15.0)
  assert other.over(xl) == (2.0, 1.5)
  np.testing.assert_allclose(xl.rates, [50, 100 / 6, 100 / 18])


def test_share_is_of_what_the_machine_multiplies():
  limit = Limit(512, 8.0, seconds(2, 2, 4))
  assert limit.rate == 4.0
  assert trained(seconds(5, 5, 5), 10.0).share(limit) == 0.5 * jax.device_count()


@pytest.mark.parametrize("last, growth, linear", [(16, 1.0, "yes"), (32, 3.0, "no")])
def test_growth_is_that_of_the_last_tokens(last, growth, linear):
  read = Read({4: seconds(4), 8: seconds(8), 16: seconds(last)})
  assert read.growth == growth
  table = figures.read_table({"own": read, "stock": Read({4: seconds(4)})})
  assert table.rows[0][-1] == linear
  assert table.rows[1] == ["stock", "8.00", "-", "-", "4.00", "0", "-", "-"]


def test_both_kinds_of_seconds_are_taken_and_have_medians():
  watch = Watch()
  with watch.piece():
    sum(range(10_000))
  assert all(own > 0 for own in watch.taken[0])
  assert medians([Seconds(1.0, 9.0), Seconds(2.0, 8.0), Seconds(5.0, 1.0)]) == (2, 8)


def test_products_are_counted():
  found = products(np.float32)
  assert found.run().shape == (found.size, found.size)
  assert found.operations == 4 * 2 * found.size**3
