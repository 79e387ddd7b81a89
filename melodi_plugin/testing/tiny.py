"""Small models, random inputs and comparisons for tests, ours and yours."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import TRANSFORMER_XL
from melodi_plugin.core.memories.short_term import MixedAndCached
from melodi_plugin.core.memory import Memory
from melodi_plugin.systems.paper.layer import PaperLayer
from melodi_plugin.systems.paper.params import PaperLayerParams
from melodi_plugin.systems.table import empty_memory

TINY = dict(
  num_layers=3,
  emb_dim=16,
  num_heads=2,
  head_dim=8,
  mlp_dim=32,
  window_length=8,
  summary_tokens=4,
  short_term_tokens=4,
  long_term_increment=2,
  long_term_windows=3,
  long_term_layers=(1,),
  short_term_layers=(0, 1, 2),
)


def tiny_config(**changes: Any) -> MelodiConfig:
  """Three layers of width 16, windows of 8 tokens, a queue of three windows in layer 1."""
  return MelodiConfig(**{**TINY, **changes})


def from_keys(**keys: Any) -> MelodiConfig:
  """A config as MaxText would make it: its own sizes, and our keys after their checks."""
  sizes = dict(
    num_decoder_layers=4,
    emb_dim=16,
    num_query_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=32,
    dropout_rate=0.25,
    decoder_block="melodi",
  )
  return MelodiConfig.from_maxtext(SimpleNamespace(**sizes, **MelodiKeys(**keys).model_dump()))


def random_layers(
  config: MelodiConfig, seed: int = 0, dtype: Any = jnp.float32
) -> list[PaperLayer]:
  """Layers moved off their initial values, so that a missing term shows; one temperature < 0."""
  layers = []
  for index, spec in enumerate(config.layers):
    with nnx.use_eager_sharding(False):  # there is no mesh here
      module = PaperLayerParams(config, spec, dtype=dtype, rngs=nnx.Rngs(seed + index))
    noise = np.random.default_rng(seed + index)
    layer = jax.tree.map(
      lambda leaf, noise=noise: leaf + 0.2 * jnp.asarray(noise.normal(size=leaf.shape), leaf.dtype),
      module.parameters(),
    )
    layers.append(layer._replace(temperature=layer.temperature.at[0].multiply(-1.5)))
  return layers


def quick_layers(config: MelodiConfig) -> list[PaperLayer]:
  """Random float64 layers without initialisers, which would take longer to compile than a test."""
  shapes = jax.eval_shape(lambda: random_layers(config, dtype=jnp.float64))
  rng = np.random.default_rng(0)
  # Vectors are norms and temperatures, mostly: near 1; one temperature < 0.
  layers = jax.tree.map(
    lambda s: jnp.asarray((s.ndim == 1) + 0.4 * rng.normal(size=s.shape)), shapes
  )
  return [layer._replace(temperature=layer.temperature.at[0].multiply(-1.5)) for layer in layers]


def random_memory(
  config: MelodiConfig, batch: int, seed: int = 0, windows: int = 2, dtype: Any = jnp.float32
) -> Memory:
  """A memory as `windows` windows would leave it: older slots of queue and cache are empty."""
  empty, rng = empty_memory(config, batch), np.random.default_rng(seed)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(dtype)  # noqa: E731
  short, long = jax.tree.map(draw, (empty.short, empty.long))
  long[:, :, : max(0, config.queue_tokens - windows * config.long_term_increment)] = 0
  around_stock = isinstance(short, MixedAndCached)
  if around_stock or config.system == TRANSFORMER_XL:
    cached, sinks = short.cached if around_stock else short, config.sink_tokens
    read = windows * config.window_length
    cached[:, :, sinks : max(sinks, sinks + config.cache_tokens - read)] = 0
  short, long = jax.tree.map(jnp.asarray, (short, long))
  return Memory(short, long, jnp.full_like(empty.windows, windows))


def assert_close(
  actual: Any, expected: Any, absolute: float = 2e-5, relative: float = 2e-4
) -> None:
  """Compares trees leaf by leaf, naming the leaf that differs: |Δ| <= absolute + relative·|ref|."""
  flat, treedef = jax.tree_util.tree_flatten_with_path(expected)
  assert jax.tree.structure(actual) == treedef, f"{jax.tree.structure(actual)} != {treedef}"
  for (path, want), got in zip(flat, jax.tree.leaves(actual), strict=True):
    np.testing.assert_allclose(
      np.asarray(got),
      np.asarray(want),
      rtol=relative,
      atol=absolute,
      err_msg=jax.tree_util.keystr(path),
    )
