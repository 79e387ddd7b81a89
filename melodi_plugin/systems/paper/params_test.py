"""Initial values, logical axes and names of the paper's parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from melodi_plugin.core.token_mixer import TokenMixer
from melodi_plugin.systems.paper.layer import PaperLayer
from melodi_plugin.systems.paper.params import PaperLayerParams, small_init
from melodi_plugin.systems.params import summary_embeddings
from melodi_plugin.testing.tiny import tiny_config

# The sizes of the recorded initial values (SEMANTICS 1.8).
CONFIG = tiny_config(
  emb_dim=512,
  num_heads=4,
  head_dim=64,
  mlp_dim=1024,
  window_length=128,
  summary_tokens=64,
  short_term_tokens=64,
  long_term_increment=32,
)
LONG = 1
KERNELS = {  # name: fan-in
  "query": 512,
  "key": 512,
  "value": 512,
  "out": 4 * 64,
  "ffn_in": 512,
  "ffn_out": 1024,
  "summary_mixer.kernel": 128 + 64,
  "short_mixer.kernel": 128 + 64,
  "long_mixer.kernel": 128 + 64,
}
ONES = [
  "attention_norm",
  "ffn_norm",
  "temperature",
  *(f"{m}.{n}" for m in ("summary_mixer", "short_mixer") for n in ("context_norm", "summary_norm")),
]
ZEROS = ["ffn_in_bias", "ffn_out_bias", *(f"{m}_mixer.bias" for m in ("summary", "short", "long"))]
SPREAD = ["gate", "position_bias"]
AXES = {  # the logical axes that MaxText's rules shard; the rest is small, and replicated
  "attention_norm": ("norm",),
  "query": ("embed", "heads"),
  "key": ("embed", "heads"),
  "value": ("embed", "heads"),
  "out": ("heads", "embed"),
  "ffn_norm": ("norm",),
  "ffn_in": ("embed", "mlp"),
  "ffn_in_bias": ("mlp",),
  "ffn_out": ("mlp", "embed"),
  "ffn_out_bias": ("norm",),
}


def module(config, layer, dtype=jnp.float32):
  with nnx.use_eager_sharding(False):  # there is no mesh here
    return PaperLayerParams(config, config.layer(layer), dtype=dtype, rngs=nnx.Rngs(0))


def by_name(state):
  return {".".join(path): param for path, param in nnx.to_flat_state(state)}


def shapes(config, layer, dtype=jnp.float32):
  """The parameters by name, without values."""
  return by_name(jax.eval_shape(lambda: nnx.state(module(config, layer, dtype), nnx.Param)))


@functools.cache
def params():
  """The parameters of a long-term layer of the recorded size, by name."""
  return by_name(nnx.state(module(CONFIG, LONG), nnx.Param))


def test_every_parameter_is_checked_below():
  assert set(params()) == {*KERNELS, *ONES, *ZEROS, *SPREAD}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_truncated_normal_of_unit_gain(name):
  value, deviation = np.asarray(params()[name][...]), KERNELS[name] ** -0.5
  assert abs(value.mean()) < 0.05 * deviation
  assert abs(value.std() / deviation - 1) < 0.05
  # Cut at two deviations of the normal before the cut, which is wider by 1 / 0.8796.
  assert 2.2 * deviation < np.abs(value).max() <= 2 / 0.8796 * deviation * 1.001


@pytest.mark.parametrize("name", ONES)
def test_gains_and_temperatures_are_one(name):
  assert (params()[name][...] == 1).all()


@pytest.mark.parametrize("name", ZEROS)
def test_biases_are_zero(name):
  assert (params()[name][...] == 0).all()


def assert_small(value):
  """Truncated normal "0.25", as the reference draws it: not corrected for the cut at 0.5."""
  assert np.abs(value).max() <= 0.5
  assert np.abs(value).max() > 0.4
  assert abs(value.mean()) < 0.04
  assert abs(value.std() - 0.22) < 0.02


def test_gate_starts_near_one_half():
  gate = np.asarray(params()["gate"][...])
  assert gate.shape == (4, 64)
  assert_small(gate)


def test_summary_embeddings_start_small():
  with nnx.use_eager_sharding(False):
    table = summary_embeddings(CONFIG, small_init, dtype=jnp.float32, rngs=nnx.Rngs(0))
  assert table[...].shape == (64, 512)
  assert_small(np.asarray(table[...]))
  assert abs(np.asarray(table[...]).std() - 0.22) < 0.003
  assert table.get_metadata()["out_sharding"] == (None, "embed")


def test_position_bias_is_normal_over_the_buckets():
  layer = jax.jit(lambda: module(tiny_config(num_heads=256, head_dim=1), 0).parameters())()
  table = np.asarray(layer.position_bias)
  assert table.shape == (256, 32)
  assert abs(table.std() - 0.177) < 0.005
  assert np.abs(table).max() > 3 * 0.177  # not cut


def test_parameters_are_drawn_apart():
  values = params()
  assert (values["query"][...] != values["key"][...]).all()
  assert (values["summary_mixer.kernel"][...] != values["short_mixer.kernel"][...]).all()


@pytest.mark.parametrize("changes", [{}, dict(summary_tokens=0), dict(position="none")])
@pytest.mark.parametrize("layer", [0, LONG])
def test_every_parameter_has_one_logical_axis_per_dimension(changes, layer):
  for name, param in shapes(tiny_config(**changes), layer).items():
    axes = param.get_metadata()["out_sharding"]
    assert len(axes) == param.ndim, name
    if "_norm" in name:
      assert axes == ("norm",), name
    else:
      assert axes == AXES.get(name, (None,) * len(axes)), name


def test_attributes_are_the_fields_of_the_tuples():
  layer = module(tiny_config(), LONG)
  assert {name for name in vars(layer) if not name.startswith("_")} == set(PaperLayer._fields)
  mixer = {name for name in vars(layer.short_mixer) if not name.startswith("_")}
  assert mixer == set(TokenMixer._fields)


def test_parameters_hands_out_every_array_under_its_name():
  layer = module(tiny_config(own_long_temperature=True), LONG)
  values = layer.parameters()
  for name in PaperLayer._fields:
    own, value = getattr(layer, name), getattr(values, name)
    if not name.endswith("_mixer"):
      assert value is not None
      np.testing.assert_array_equal(value, own[...])
      continue
    for field in TokenMixer._fields:
      if getattr(own, field) is None:
        assert getattr(value, field) is None
      else:
        np.testing.assert_array_equal(getattr(value, field), getattr(own, field)[...])


@pytest.mark.parametrize(
  "changes, layer, absent",
  [
    ({}, 0, {"gate", "long_temperature", "long_mixer"}),
    ({}, LONG, {"long_temperature"}),
    (dict(own_long_temperature=True), LONG, set()),
    (dict(own_long_temperature=True), 0, {"gate", "long_temperature", "long_mixer"}),
    (dict(summary_branching=False), LONG, {"long_temperature", "summary_mixer", "short_mixer"}),
    (
      dict(short_term_tokens=0),
      0,
      {"gate", "long_temperature", "long_mixer", "summary_mixer", "short_mixer"},
    ),
    (dict(short_term_tokens=0), LONG, {"long_temperature", "short_mixer"}),
    (dict(summary_tokens=0), LONG, {"long_temperature", "summary_mixer"}),
    (dict(long_term_windows=0), LONG, {"gate", "long_temperature", "long_mixer"}),
    (dict(position="none"), LONG, {"long_temperature", "position_bias"}),
  ],
)
def test_a_layer_has_only_the_parameters_that_it_uses(changes, layer, absent):
  values = jax.eval_shape(lambda: module(tiny_config(**changes), layer).parameters())
  assert {name for name in PaperLayer._fields if getattr(values, name) is None} == absent


def test_mixer_without_residual_has_no_norms():
  values = jax.eval_shape(lambda: module(tiny_config(short_term_tokens=3), 0).parameters())
  assert values.short_mixer.context_norm is values.short_mixer.summary_norm is None
  assert values.summary_mixer.context_norm is not None


def test_parameters_have_the_dtype_asked_for():
  dtypes = {param.dtype for param in shapes(tiny_config(), LONG, jnp.bfloat16).values()}
  assert dtypes == {jnp.dtype(jnp.bfloat16)}
