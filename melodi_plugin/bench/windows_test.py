"""What a remat policy of MaxText's computes again in the step that is measured."""

import pytest

from melodi_plugin.bench.windows import arguments, make_step
from melodi_plugin.maxtext.steps import remat_named
from melodi_plugin.testing.products import counted
from melodi_plugin.testing.tiny import tiny_config


@pytest.mark.broad
def test_policies_compute_more_of_the_products_again_the_less_they_save():
  config = tiny_config(num_layers=1, long_term_layers=(0,), short_term_layers=(0,))
  given = arguments(config, 2)
  steps = (make_step(config, "layers", remat_named(n)) for n in ("none", "minimal", "full"))
  none, minimal, full = (counted(step, given) for step in steps)
  assert none < minimal < full
