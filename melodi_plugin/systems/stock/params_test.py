"""How what memory adds to a stock layer starts: as a copy of tokens, and with the keys' numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from melodi_plugin.core.cell import KeyValues, OpenWindow
from melodi_plugin.core.memories.contents import Mixture
from melodi_plugin.systems.params import summary_embeddings
from melodi_plugin.systems.stock.params import StockMemoryParams, table_init
from melodi_plugin.testing.tiny import tiny_config

AROUND = dict(base_block="llama2", num_kv_heads=1, mask_empty_slots=True)
CONFIG = tiny_config(**AROUND, short_term_tokens=3, long_term_increment=4)
LONG = 1  # the layer that has a queue


def module(config=CONFIG, layer=LONG, offset=-4.0, gate=3.0):
  with nnx.use_eager_sharding(False):  # there is no mesh here
    spec = config.layer(layer)
    return StockMemoryParams(config, spec, offset=offset, gate=gate, rngs=nnx.Rngs(0))


def by_name(config=CONFIG, layer=LONG):
  """The parameters by name."""
  state = nnx.state(module(config, layer), nnx.Param)
  return {".".join(path): leaf for path, leaf in nnx.to_flat_state(state)}


@functools.cache
def updated(config=CONFIG):
  """A window's tokens, its summary tokens, and what the new mixers make of them."""
  chance = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(chance.normal(size=shape), jnp.float32)  # noqa: E731
  x, u = draw(1, config.window_length, config.emb_dim), draw(1, config.summary_tokens, 16)
  heads = jnp.zeros((*x.shape[:2], 1, 8))
  window = OpenWindow(KeyValues(heads, heads, jnp.ones(x.shape[:2], bool)), x[:, :0], x)
  params, spec, mixed = module(config).parameters(None), config.layer(LONG), {}
  for name, outputs, residual in (
    ("summary", config.summary_tokens, True),
    ("short", spec.mixed_tokens, spec.residual_short),
    ("long", spec.increment, False),
  ):
    mixture = Mixture(config, f"{name}_mixer", outputs, residual, jnp.float32)
    mixed[name] = mixture.close(params, u, window)
  return x, u, mixed


def test_short_term_memory_starts_as_the_last_tokens_of_the_window():
  x, _, mixed = updated()
  np.testing.assert_array_equal(mixed["short"], x[:, -3:])


@pytest.mark.parametrize(
  "cache, tokens",
  [
    (3, [0, 2, 4]),  # spread over the five that the cache does not hold
    (8, [1, 4, 7]),  # it holds all
    (11, [1, 4, 7]),
  ],
)
def test_beside_a_cache_short_term_memory_starts_spread_over_what_is_not_in_it(cache, tokens):
  config = tiny_config(**AROUND, short_term_tokens=3, long_term_increment=4, cache_tokens=cache)
  x, _, mixed = updated(config)
  np.testing.assert_array_equal(mixed["short"], x[:, tokens])


def test_increment_starts_as_tokens_spread_over_the_window():
  x, _, mixed = updated()
  np.testing.assert_array_equal(mixed["long"], x[:, [1, 3, 5, 7]])


def test_summary_tokens_start_by_passing_through():
  _, u, mixed = updated()
  np.testing.assert_array_equal(mixed["summary"], u)


@pytest.mark.parametrize("tokens", [8, 11])
def test_more_short_term_tokens_than_the_window_repeat_its_first(tokens):
  x, _, mixed = updated(tiny_config(**AROUND, short_term_tokens=tokens))
  np.testing.assert_array_equal(mixed["short"], x[:, np.maximum(np.arange(8 - tokens, 8), 0)])


def test_offsets_and_gates_start_where_the_keys_say():
  params = by_name()
  assert params["offset"].shape == (1, 2) and (params["offset"][...] == -4).all()
  assert params["gate"].shape == (1, 2, 8) and (params["gate"][...] == 3).all()


def test_every_attention_of_a_layer_has_its_own_offsets_and_gates():
  params = by_name(tiny_config(**AROUND, num_attentions=2))
  assert params["offset"].shape == (2, 2) and params["gate"].shape == (2, 2, 8)


@pytest.mark.parametrize(
  "changes, layer, absent",
  [
    ({}, 0, {"gate", "long_mixer"}),
    ({"short_term_tokens": 0}, LONG, {"offset", "short_mixer"}),
    ({"summary_tokens": 0}, LONG, {"summary_mixer"}),
    ({"summary_branching": False}, LONG, {"summary_mixer", "short_mixer"}),
    ({"short_term_tokens": 0, "cache_tokens": 5}, LONG, {"offset", "short_mixer"}),
    ({"long_term_windows": 0}, LONG, {"gate", "long_mixer"}),
  ],
)
def test_a_layer_has_only_the_parameters_that_it_uses(changes, layer, absent):
  every = {"offset", "gate", "summary_mixer", "short_mixer", "long_mixer"}
  params = by_name(tiny_config(**AROUND | changes), layer)
  assert {name.split(".")[0] for name in params} == every - absent


def test_short_term_memory_gets_no_residual_even_where_it_is_as_long_as_the_summary():
  """It starts as a copy of tokens, to which summary tokens must not be added."""
  config = tiny_config(**AROUND)
  assert config.short_term_tokens == config.summary_tokens
  assert "short_mixer.context_norm" not in by_name(config)
  x, _, mixed = updated(config)
  np.testing.assert_array_equal(mixed["short"], x[:, -4:])


def test_all_are_float32_and_replicated_but_for_the_width_of_the_table():
  assert {leaf.dtype for leaf in by_name().values()} == {jnp.dtype("float32")}
  axes = {name: leaf.get_metadata()["out_sharding"] for name, leaf in by_name().items()}
  norms = {name for name in axes if name.endswith("_norm")}
  assert all(axes[name] == ("norm",) for name in norms)
  assert all(set(axes[name]) == {None} for name in axes.keys() - norms)
  with nnx.use_eager_sharding(False):
    table = summary_embeddings(CONFIG, table_init, dtype=jnp.float32, rngs=nnx.Rngs(0))
  assert table.shape == (4, 16) and table.get_metadata()["out_sharding"] == (None, "embed")
  assert 0.005 < float(jnp.std(table[...])) < 0.04


def test_stacked_layers_keep_their_axes_in_front():
  shapes = jax.eval_shape(lambda: module().parameters(None))
  stacked = jax.tree.map(lambda leaf: (2, *leaf.shape), shapes)
  assert stacked.gate == (2, 1, 2, 8) and stacked.long_mixer.kernel == (2, 12, 4)
