"""No loop keeps masks of attention for the backward pass: they are made again from the plan."""

import functools

import jax
import pytest

from melodi_plugin.testing import segments
from melodi_plugin.testing.cases import broad_but
from melodi_plugin.testing.products import inner_jaxprs
from melodi_plugin.testing.remat import HEADS, WIDTH, around_stock, paper

pytestmark = pytest.mark.usefixtures("float64")


def kept_masks(jaxpr):
  """Shapes of the booleans of every head or channel that go into loops and come out of them."""
  shapes = set()
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "scan":
      shapes |= {v.aval.shape for v in (*eqn.invars, *eqn.outvars) if v.aval.dtype == bool}
    shapes.update(*map(kept_masks, inner_jaxprs(eqn)))
  return {shape for shape in shapes if {HEADS, WIDTH} & {*shape[2:]}}


@pytest.mark.parametrize("schedule", broad_but(["layers"], ["layers", "windows", "diagonal"]))
@pytest.mark.parametrize("make", [paper, around_stock])
def test_no_mask_of_every_head_or_channel_is_kept(make, schedule):
  read, arguments = make(schedule)
  weights = arguments[1]
  run = functools.partial(segments.value_and_grads, read)
  jaxpr = jax.make_jaxpr(run)(*arguments[:4], weights, *arguments[4:])
  kept = kept_masks(jaxpr.jaxpr)
  assert not kept, kept
