"""A block of a few lines for the cell around stock blocks.  For tests.

The block has two attentions, a sliding window, a soft cap, and positions that matter.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from melodi_plugin.conformance.stacks import stack_layers
from melodi_plugin.core.stack import Section
from melodi_plugin.reference import melodi as naive
from melodi_plugin.systems.stock.params import StockMemoryParams
from melodi_plugin.systems.stock.reader import Attention, StockLayer, StockReader
from melodi_plugin.systems.table import make_cell
from melodi_plugin.testing.tiny import tiny_config

W, SEGMENT = 6, 18
ATTENTIONS = (Attention(sliding_window=3), Attention(soft_cap=1.5))
AROUND = dict(
  num_layers=2,
  short_term_layers=(0, 1),
  window_length=W,
  long_term_windows=2,
  short_term_tokens=3,
  base_block="llama2",
  num_kv_heads=1,
  num_attentions=2,
  mask_empty_slots=True,
)


def stock_config(**changes):
  """Two layers, the upper with a queue of two windows, which three windows overflow."""
  return tiny_config(**(AROUND | changes))


def turned(heads, positions):
  """In the place of RoPE: turns add up, and logits depend on more than differences."""
  return heads * 1.05 ** positions.astype(heads.dtype)[..., None, None]


def projected(params, tokens, positions, kernel, config):
  """(B, t, heads, H) of normed tokens."""
  normed = naive.norm(tokens, params["norm"])
  out = (normed @ params[kernel]).reshape(*tokens.shape[:2], -1, config.head_dim)
  return out if kernel == "value" else turned(out, positions)


@dataclasses.dataclass(frozen=True)
class TwoAttentions:
  """Two attentions, each with a residual, and a feed-forward layer."""

  config: Any
  attentions: tuple[Attention, ...] = ATTENTIONS
  looks_up_positions: bool = False

  def __call__(self, params, tokens, positions, cores):
    """See `Block.__call__`."""
    if self.looks_up_positions:  # the cell has added them, so that none is negative
      positions = positions - self.config.short_term_tokens
    for own, core in zip(params["attentions"], cores, strict=True):
      parts = (projected(own, tokens, positions, n, self.config) for n in ("query", "key", "value"))
      tokens = tokens + core(*parts).reshape(*tokens.shape[:2], -1) @ own["out"]
    return tokens + jnp.tanh(tokens @ params["feed_forward"])

  def project(self, params, tokens, positions):
    """See `Block.project`."""
    if self.looks_up_positions:
      positions = positions - self.config.short_term_tokens
    return [
      tuple(projected(own, tokens, positions, n, self.config) for n in ("key", "value"))
      for own in params["attentions"]
    ]

  def turn(self, params, keys, positions):
    """See `Block.turn`."""
    return [turned(key, positions) for key in keys]


def block_shapes(config):
  """Shapes of the block's parameters."""
  width, heads, keys = config.emb_dim, config.num_heads, config.num_kv_heads
  sizes = {
    "norm": (width,),
    "query": (width, heads * config.head_dim),
    "key": (width, keys * config.head_dim),
    "value": (width, keys * config.head_dim),
    "out": (heads * config.head_dim, width),
  }
  shaped = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float64)  # noqa: E731
  one = {name: shaped(shape) for name, shape in sizes.items()}
  return {"attentions": [one, one], "feed_forward": shaped((width, width))}


@functools.cache
def random_stock_layers(config) -> list[StockLayer]:
  """Random layers; gates and offsets hold float32 numbers, as the cell reads them."""
  chance, layers = np.random.default_rng(0), []

  def memory(spec):
    return StockMemoryParams(config, spec, offset=0.0, gate=0.0, rngs=nnx.Rngs(0))

  for spec in config.layers:
    with nnx.use_eager_sharding(False):
      layer = jax.eval_shape(lambda spec=spec: memory(spec).parameters(None))
    layer = layer._replace(block=block_shapes(config))
    layer = jax.tree.map(
      lambda s: jnp.asarray((s.ndim == 1) + 0.4 * chance.normal(size=s.shape)), layer
    )
    exact = {
      name: None if leaf is None else (3 * leaf).astype(jnp.float32).astype(jnp.float64)
      for name, leaf in (("offset", layer.offset), ("gate", layer.gate))
    }
    layers.append(layer._replace(**exact))
  return layers


def reader_of(config, spec, dtype=jnp.float64, **options) -> StockReader:
  """The reader around the block."""
  return StockReader(config, spec, dtype, TwoAttentions(config, **options))


def cell_of(config, spec, **options):
  """The cell around the block."""
  return make_cell(config, spec, jnp.float64, reader_of(config, spec, **options))


def sections(layers, config, dtype=jnp.float64, **options) -> list[Section]:
  """One section per run of equal layers."""
  make = functools.partial(reader_of, config, dtype=dtype, **options)
  return stack_layers(layers, config, dtype=dtype, reader_of=make)
