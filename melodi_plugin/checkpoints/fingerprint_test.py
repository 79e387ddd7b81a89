"""Fingerprints: one bit, one place, one letter make another; how things are laid out does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.checkpoints import fingerprint
from melodi_plugin.config.layers import LayerSpec, Run
from melodi_plugin.core.stack import Section

LAYERS = [
  {
    "mlp": np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float32),
    "norm": np.ones(6, jnp.bfloat16),
  }
  for seed in range(3)
]
OTHERS = {"embedding": np.random.default_rng(9).normal(size=(8, 6)).astype(np.float16)}


def section(first, *layers, **more):
  params = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
  return Section(Run(LayerSpec(), first, len(layers)), None, params | more)


def of(layers=LAYERS, others=OTHERS):
  return fingerprint.of_model([section(0, *layers)], others)


def with_mlp(change):
  """The layers, with the middle one's weights changed."""
  mlp = LAYERS[1]["mlp"].copy()
  change(mlp)
  return [LAYERS[0], LAYERS[1] | {"mlp": mlp}, LAYERS[2]]


def test_fingerprint_is_always_the_same():
  """The value is written down: another one would make all saved memories foreign."""
  assert of() == of() == "0f2d1b86e55191620a021a477ee93aec"


def one_ulp(mlp):
  mlp[2, 3] = np.nextafter(mlp[2, 3], np.inf)


def sign_of_zero(mlp):
  mlp[0, 0] = 0.0 if np.signbit(mlp[0, 0]) else -0.0


def swap(mlp):
  mlp[[0, 1]] = mlp[[1, 0]]


@pytest.mark.parametrize("change", [one_ulp, sign_of_zero, swap])
def test_one_bit_or_place_makes_another(change):
  assert of(with_mlp(change)) != of()


def test_zeros_have_signs_and_names_shapes_and_types_count():
  zero = {"a": np.zeros(4, np.float32)}
  changed = [
    {"a": -zero["a"]},
    {"b": zero["a"]},
    {"a": np.zeros(5, np.float32)},
    {"a": np.zeros(4, np.float16)},
    {"a": np.zeros((2, 2), np.float32)},
    {},
  ]
  assert len({of(others=others) for others in (zero, *changed)}) == 7


def test_layers_that_change_places_make_another():
  assert of([LAYERS[0], LAYERS[2], LAYERS[1]]) != of()


def test_how_layers_are_scanned_does_not_matter():
  two = [section(0, LAYERS[0]), section(1, *LAYERS[1:])]
  one_by_one = [section(i, layer) for i, layer in enumerate(LAYERS)]
  assert fingerprint.of_model(two, OTHERS) == fingerprint.of_model(one_by_one, OTHERS) == of()


def test_where_arrays_lie_does_not_matter():
  mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

  def put(array, *axes):
    spec = jax.sharding.PartitionSpec(*axes)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))

  whole = section(0, *LAYERS)
  params = {"mlp": put(whole.params["mlp"], None, "a", "b"), "norm": put(whole.params["norm"])}
  others = {"embedding": put(OTHERS["embedding"], ("a", "b"))}
  assert fingerprint.of_model([whole._replace(params=params)], others) == of()


def test_states_of_random_generators_are_not_looked_at():
  more = {"count": np.arange(3, dtype=np.uint32), "key": jax.random.split(jax.random.key(0), 3)}
  assert fingerprint.of_model([section(0, *LAYERS, **more)], OTHERS) == of()


def test_float64_counts_all_of_its_bits(float64):
  a = {"a": np.ones(3)}
  b = {"a": np.nextafter(a["a"], 2)}
  assert of(others=a) != of(others=b) == of(others=b)
