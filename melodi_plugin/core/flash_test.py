"""The kernel, interpreted, against attention in chunks; and where it stands."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pallas
from jax.sharding import Mesh, PartitionSpec

from melodi_plugin.core import flash
from melodi_plugin.core.many_slots import How, attend_to_many

BATCH, HEADS = 2, 4
PLAIN = How()


def inputs(count: int, slots: int, groups: int, dtype=jnp.float32, size: int = 8):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
  key, value = draw(BATCH, slots, groups, size), draw(BATCH, slots, groups, size)
  given = draw(BATCH, count, HEADS, size), key, value, draw(HEADS).astype(jnp.float32)
  return given, jnp.asarray(rng.random((BATCH, slots)) < 0.7)


@pytest.mark.parametrize("count, slots, groups", [(5, 13, 2), (100, 600, 4)])
def test_outputs_and_gradients_are_those_of_chunks(count, slots, groups):
  given, visible = inputs(count, slots, groups)
  visible = visible.at[1].set(False)  # this row sees nothing: zeros, and no gradient
  weights = jax.random.normal(jax.random.key(1), given[0].shape)

  def both(attend):
    def loss(*given):
      out = attend(*given, visible)
      return jnp.sum(out * weights), out

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*given)

  with pallas.force_tpu_interpret_mode():
    found = both(flash.flash_attention)
  expected = both(functools.partial(attend_to_many, how=How(null=True, chunk=64)))
  assert not found[1][1].any() and found[1][0].any()
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)


def lowered(platform: str, *, how=PLAIN, mapped=("rows", "others"), **of_inputs) -> str:
  """The program of an attention in which these axes of a mesh are mapped."""
  mesh = Mesh(np.array(jax.devices()[:2]).reshape(2, 1), ("rows", "others"))
  given, visible = inputs(8, 256, 2, **({"dtype": jnp.bfloat16} | of_inputs))
  specs = tuple(PartitionSpec() for _ in range(5))

  def attend(*given):
    return attend_to_many(*given, how, jax.random.key(0))

  mapping = {"in_specs": specs, "out_specs": PartitionSpec(), "check_vma": False}
  program = jax.jit(jax.shard_map(attend, mesh=mesh, axis_names={*mapped}, **mapping))
  return program.trace(*given, visible).lower(lowering_platforms=(platform,)).as_text()


KERNEL = "tpu_custom_call"


def test_it_stands_in_programs_for_tpus_alone():
  assert KERNEL in lowered("tpu")
  assert KERNEL not in lowered("cpu")


@pytest.mark.parametrize(
  "otherwise",
  [
    {"how": How(dropout_rate=0.1)},
    {"how": How(soft_cap=2.0)},
    {"dtype": jnp.float32},
    {"mapped": ("rows",)},
    {"size": 192},
  ],
  ids=lambda own: next(iter(own)),
)
def test_it_does_not_stand_where_it_does_not_fit(otherwise):
  assert KERNEL not in lowered("tpu", **otherwise)
