"""A block of a few lines for the cell around stock blocks, and that cell in loops.  For tests.

The block has two attentions, a sliding window, a soft cap, and positions that matter.  The loops
are written from what a stock cell promises: padding is cut off, a queue is a list of tokens, and
what a token sees is asked pair by pair.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from melodi_plugin.conformance.stacks import stack_layers
from melodi_plugin.core.memory import Memory
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


# -- A block of a few lines ------------------------------------------------------------------------


def turned(heads, positions):
  """Something that depends on positions, and not only on their differences."""
  return heads * (1 + 0.3 * jnp.sin(0.7 * positions.astype(heads.dtype))[..., None, None])


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


def reader_of(config, spec, **options) -> StockReader:
  """The reader around the block."""
  return StockReader(config, spec, jnp.float64, TwoAttentions(config, **options))


def cell_of(config, spec, **options):
  """The cell around the block."""
  return make_cell(config, spec, jnp.float64, reader_of(config, spec, **options))


def sections(layers, config, **options) -> list[Section]:
  """One section per run of equal layers."""
  make = functools.partial(reader_of, config, **options)
  return stack_layers(layers, config, dtype=jnp.float64, reader_of=make)


# -- The slow, obvious version ---------------------------------------------------------------------


def slow_seen(index, n, queries):
  """Which tokens of the row a query sees, one by one: n context tokens, then summary tokens."""
  seen = np.zeros((queries, queries), bool)
  for t in range(queries):
    for s in range(t + 1):
      near = ATTENTIONS[index].sliding_window
      seen[t, s] = t >= n or near is None or t - s < near
  return seen


def slow_core(params, index, config, n, memory, queue):
  """Attention `index` over the n context tokens and the summary tokens of one window.

  `memory` and `queue` are the (keys, values) of what the layer remembers, (s, H) or None.
  """
  cap = ATTENTIONS[index].soft_cap

  def logits(query, key):
    found = jnp.einsum("tnh,sh->nts", query, key)
    return cap * jnp.tanh(found / cap) if cap else found

  def attend(scores, seen, value):
    return jnp.einsum("nts,sh->tnh", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), value)

  def core(query, key, value):
    query, key, value = query[0], key[0, :, 0], value[0, :, 0]
    scores, seen = logits(query, key), slow_seen(index, n, len(query))
    later = np.arange(len(query)) > (0 if n else -1)  # the window's first token is a sink
    if memory is not None:
      extra = logits(query, memory[0]) + params.offset[index][:, None, None]
      scores = jnp.concatenate([extra, scores], axis=-1)
      seen = np.concatenate([np.repeat(later[:, None], len(memory[0]), 1), seen], axis=1)
      value = jnp.concatenate([memory[1], value])
    own = attend(scores, seen, value)
    if queue is not None:
      cross = attend(logits(query, queue[0]), True, queue[1])
      share = jax.nn.sigmoid(-params.gate[index].astype(jnp.float32)).astype(own.dtype)
      own = own + jnp.where(later[:, None, None], share * (cross - own), 0)
    return own[None]

  return core


def slow_window(params, config, spec, x, u, short, queue):
  """One layer over one window of n tokens of text: x (n, D), u (U, D), short (S, D) or None."""
  block, n = TwoAttentions(config), x.shape[0]

  def tap(tokens, positions):
    pairs = block.project(params.block, jnp.stack(tokens)[None], positions)
    return [(key[0, :, 0], value[0, :, 0]) for key, value in pairs]

  memory = queued = [None, None]
  if short is not None and spec.short_tokens:
    memory = tap(list(short), jnp.arange(-spec.short_tokens, 0)[None])
  if queue:
    queued = tap(queue, jnp.zeros((1, len(queue)), jnp.int32))
  cores = [slow_core(params, i, config, n, memory[i], queued[i]) for i in range(2)]
  positions = jnp.concatenate([jnp.arange(n), W + jnp.arange(u.shape[0])])[None]
  out = block(params.block, jnp.concatenate([x, u])[None], positions, cores)[0]
  above, u = out[:n], out[n:]
  # Mixers read the context below the layer, and the summary tokens above it.
  mixed, next_short, increment = u, u[: spec.short_tokens], []
  if params.summary_mixer is not None:
    mixed = naive.mix(params.summary_mixer, x, u, True)
  if params.short_mixer is not None:
    next_short = naive.mix(params.short_mixer, x, u, False)
  if params.long_mixer is not None:
    increment = list(naive.mix(params.long_mixer, x, u, False))
  return above, mixed, next_short, increment


def slow_read(config, positions, ids, held_before):
  """A segment in loops over rows, windows and layers, as `read_segment` returns it."""

  def read(layers, x, summary, memory):
    y, after = [], []
    for row in range(x.shape[0]):
      out, shorts, queues, held = slow_row(
        layers,
        config,
        x[row],
        summary,
        *layer_memories(config, memory, row, held_before[row]),
        int(held_before[row]),
        positions[row],
        ids[row],
      )
      y.append(out)
      after.append((shorts, queues, held))
    short = [jnp.stack([shorts[i] for shorts, _, _ in after]) for i in with_short(config)]
    long = [jnp.stack([filled(config, q[i]) for _, q, _ in after]) for i in with_long(config)]
    windows = jnp.asarray([held for *_, held in after], jnp.int32)
    return jnp.stack(y), Memory(
      jnp.stack(short) if short else memory.short, jnp.stack(long) if long else memory.long, windows
    )

  return read


def with_short(config):
  """Layers that have short-term memory."""
  return [i for i, spec in enumerate(config.layers) if spec.short_tokens]


def with_long(config):
  """Layers that have a queue."""
  return [i for i, spec in enumerate(config.layers) if spec.queue_tokens]


def filled(config, queue):
  """A queue with zeros in its empty slots."""
  empty = [jnp.zeros(config.emb_dim)] * (config.queue_tokens - len(queue))
  return jnp.stack(empty + queue)


def layer_memories(config, memory, row, held):
  """Per layer, short-term tokens and the filled slots of the queue."""
  shorts, queues = [None] * config.num_layers, [[] for _ in range(config.num_layers)]
  for index, layer in enumerate(with_short(config)):
    shorts[layer] = memory.short[index, row]
  tokens = min(int(held) * config.long_term_increment, config.queue_tokens)
  for index, layer in enumerate(with_long(config)):
    queues[layer] = list(memory.long[index, row, config.queue_tokens - tokens :])
  return shorts, queues


def slow_row(layers, config, x, summary, shorts, queues, held, positions, ids):
  """One row through all windows and layers; `shorts` and `queues` are per layer."""
  y = [jnp.zeros_like(x[:0])]
  for start in range(0, len(ids), W):
    n = int((ids[start : start + W] > 0).sum())
    if n and positions[start] == 0:
      held, queues = 0, [[] for _ in queues]
    h, u = x[start : start + n], summary
    for i, (layer, spec) in enumerate(zip(layers, config.layers, strict=True)):
      if n:
        old = shorts[i] if held else None
        h, u, shorts[i], increment = slow_window(layer, config, spec, h, u, old, queues[i])
        queues[i] = (queues[i] + increment)[-config.queue_tokens :] if increment else queues[i]
    held += n > 0
    y.append(jnp.concatenate([h, jnp.zeros((W - n, config.emb_dim))]))
  return jnp.concatenate(y), shorts, queues, held
