"""The systems that MELODI is compared with, in Python loops: SEMANTICS 4.1 to 4.4.

Written from SEMANTICS.md, not from the fast path, and shares with it only the parameters'
containers and the config.  A row is a list of documents; each remembers, per layer, the windows
that it stored in a Python list, without padding.  A window attends to concatenated arrays.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import BLOCK_RECURRENT, MEMORIZING
from melodi_plugin.core.memory import Memory
from melodi_plugin.reference.documents import Document, LayerOfDocument, recollect, write_down
from melodi_plugin.reference.melodi import bucket, heads, norm, softmax_with_null, unit

# -- Attention ------------------------------------------------------------------------------------


def attend(query, key, value, temperature, bias: Any = 0.0, seen: Any = True):
  """(N, t, H) queries over (N, s, H) keys -> (N, t, H)."""
  logits = (query @ jnp.swapaxes(key, 1, 2) + bias) * jnp.abs(temperature)[:, None, None]
  return softmax_with_null(jnp.where(seen, logits, -1e6)) @ value


def rotate(x, places):
  """Turns the pairs (j, j + H/2) of every head; the half-wavelength of pair j is 10000^(2j/H)."""
  half = x.shape[-1] // 2
  turns = [[np.pi * place / 10_000 ** (j / half) for j in range(half)] for place in places]
  cos, sin = np.cos(turns).astype(x.dtype), np.sin(turns).astype(x.dtype)
  a, b = x[..., :half], x[..., half:]
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


def keys_and_values(layer, config: MelodiConfig, hidden):
  """Keys and values (N, n, H) of normed tokens or states."""
  key, value = (heads(hidden, kernel, config.num_heads) for kernel in (layer.key, layer.value))
  return unit(key), value


def entries_of(config: MelodiConfig, x, key, value):
  """What a window stores: its tokens, or head by head their keys and values."""
  if not config.reference_defects:
    return x
  pairs = jnp.concatenate([key, value], axis=-1)
  return jnp.concatenate(list(pairs), axis=-1)


def pairs_of(layer, config: MelodiConfig, entries):
  """Keys and values (N, n, H) of entries."""
  if config.reference_defects:
    pairs = jnp.stack(jnp.split(entries, config.num_heads, axis=-1))
    return pairs[..., : config.head_dim], pairs[..., config.head_dim :]
  return keys_and_values(layer, config, norm(entries, layer.attention_norm))


def with_cache(layer, spec: LayerSpec, config: MelodiConfig, own: LayerOfDocument, key, value):
  """Keys and values of sinks, of the cache, then of this window; and their places in it.

  What is both sink and in the cache is used as sink.
  """
  remembered: list[tuple] = []
  if own.cache is not None:
    count = own.cache.shape[0]
    twice = max(spec.sink_tokens - (own.read - count), 0)
    sinks = [number - spec.short_tokens for number in range(spec.sink_tokens)]
    remembered = [(own.sinks, sinks), (own.cache[twice:], range(twice - count, 0))]
  elif config.reference_defects:
    zeros = jnp.zeros((spec.cache_tokens, config.cache_width), key.dtype)
    remembered = [(zeros, range(-spec.cache_tokens, 0))]
  places = [place for _, own_places in remembered for place in own_places]
  pairs = [pairs_of(layer, config, entries) for entries, _ in remembered] + [(key, value)]
  key, value = (jnp.concatenate(parts, axis=1) for parts in zip(*pairs, strict=True))
  return key, value, places + list(range(key.shape[1] - len(places)))


def attend_locally(layer, spec: LayerSpec, config: MelodiConfig, query, row, positions: bool):
  """Each token to the max(C, W) tokens before it, as far as there are keys, and to sinks."""
  key, value, places = row
  count, reach = query.shape[1], max(spec.cache_tokens, config.window_length)
  distance = [[i - j for j in places] for i in range(count)]
  bias: Any = 0.0
  if config.position == "t5" and positions:
    bias = layer.position_bias[:, np.array([[bucket(d) for d in row] for row in distance])]
  if config.position == "rotary" and positions:
    query, key = rotate(query, range(count)), rotate(key, places)
  sink = [place < -spec.cache_tokens for place in places]
  seen = np.array([[0 < d <= reach or s for d, s in zip(r, sink, strict=True)] for r in distance])
  return attend(query, key, value, layer.temperature, bias, seen)


# -- Memorizing Transformer -----------------------------------------------------------------------


def queue_of(layer, config: MelodiConfig, own: LayerOfDocument, dtype):
  """Keys and values of the queue, and the numbers of their slots.

  Slots are numbered through the queue as the segment found it, and on through the segment.
  """
  length, size = config.window_length, config.long_term_windows
  empty = size - len(own.old)
  windows = [(empty + i, window) for i, window in enumerate(own.old)]
  windows += [(size + number, window) for number, window in own.new]
  if config.reference_defects:  # empty slots are seen, and a segment forgets at its end only
    zeros = jnp.zeros((length, config.long_width), dtype)
    windows = [(place, zeros) for place in range(empty)] + windows
  else:
    windows = windows[-size:]
  nothing = jnp.zeros((config.num_heads, 0, config.head_dim), dtype)
  keys, values, numbers = [nothing], [nothing], []
  for place, window in windows:
    key, value = pairs_of(layer, config, window)
    # Tokens from before this segment have no gradient, into the kernels neither; pairs are input.
    if place < size and not config.reference_defects:
      key, value = jax.lax.stop_gradient((key, value))
    keys.append(key)
    values.append(value)
    numbers += [place * length + i for i in range(window.shape[0])]
  return jnp.concatenate(keys, axis=1), jnp.concatenate(values, axis=1), np.array(numbers, int)


def attend_to_queue_and_window(layer, config: MelodiConfig, query, queue, key, value):
  """The dense memory: one softmax over the whole queue and the earlier tokens of the window."""
  old_key, old_value, numbers = queue
  count = query.shape[1]
  earlier = np.arange(count)[:, None] > np.arange(count)
  seen = np.concatenate([np.ones((count, len(numbers)), bool), earlier], axis=1)
  key = jnp.concatenate([old_key, key], axis=1)
  value = jnp.concatenate([old_value, value], axis=1)
  return attend(query, key, value, layer.temperature, seen=seen)


def retrieve(layer, config: MelodiConfig, query, queue):
  """Attention to the k slots of the queue that a query likes best, which learn nothing."""
  key, value, numbers = queue
  if not len(numbers):
    return jnp.zeros_like(query)
  key, value = jax.lax.stop_gradient((key, value))
  scores = jax.lax.stop_gradient(query) @ jnp.swapaxes(key, 1, 2)
  if config.reference_defects:  # an empty slot may be retrieved where there is nothing else
    scores = jnp.where(key.sum(-1)[:, None] == 0, -1e6, scores)
  count, exact = config.neighbors
  if exact:
    chosen = jnp.argsort(jnp.argsort(-scores)) < count
  else:
    chosen = jnp.zeros(scores.shape, bool)
    for stride in range(count):
      members = numbers % count == stride
      if members.any():
        best = jnp.argmax(jnp.where(members, scores, -jnp.inf), axis=-1)
        chosen |= best[..., None] == np.arange(len(numbers))
  return attend(query, key, value, layer.temperature, seen=chosen)


# -- Block-Recurrent Transformer ------------------------------------------------------------------


def keys_and_values_of_states(layer, config: MelodiConfig, states):
  """Keys and values (N, R, H) of states."""
  return keys_and_values(layer, config, norm(states, layer.attention_norm) + layer.positions)


def next_states(layer, config: MelodiConfig, states, key, value):
  """The states after a window; key and value are of its tokens and of the window before."""
  cell, hidden = config.recurrence.cell, norm(states, layer.attention_norm) + layer.positions
  own_key, own_value = keys_and_values(layer, config, hidden)
  query = unit(heads(hidden, layer.query, config.num_heads))
  cross = unit(heads(hidden, layer.cross, config.num_heads))
  own = attend(query, own_key, own_value, layer.temperature)
  read = attend(cross, key, value, layer.cross_temperature)
  read = jnp.concatenate([*own, *read], axis=-1)
  if cell == "single":
    inside = jax.nn.relu(read @ layer.ffn_in)
    return gated(layer.ffn_gate, states, jnp.tanh(inside @ layer.ffn_out), inside)
  states = gated(layer.attention_gate, states, read @ layer.out, read)
  if cell == "skip":
    return states
  inside = jax.nn.relu(norm(states, layer.ffn_norm) @ layer.ffn_in)
  return gated(layer.ffn_gate, states, inside @ layer.ffn_out, inside)


def gated(gate, old, new, inside):
  """What stays of the old states, and what is taken of the new."""
  if gate.bias is not None:
    share = jax.nn.sigmoid(gate.bias)
    return old * share + new * (1 - share)
  forget = jax.nn.sigmoid(inside @ gate.forget_kernel + gate.forget_bias + 1)
  take = jax.nn.sigmoid(inside @ gate.input_kernel + gate.input_bias - 1)
  return old * forget + new * take


# -- The walk -------------------------------------------------------------------------------------


def feed_forward(layer, x):
  """Pre-norm, ReLU, biases where there are any."""
  inside = norm(x, layer.ffn_norm) @ layer.ffn_in
  inside = jax.nn.relu(inside if layer.ffn_in_bias is None else inside + layer.ffn_in_bias)
  fed = inside @ layer.ffn_out
  return fed if layer.ffn_out_bias is None else fed + layer.ffn_out_bias


def read_window(
  params: Any, spec: LayerSpec, config: MelodiConfig, x, own: LayerOfDocument, number: int, told
):
  """One layer, one window of one document: n <= W tokens.  Rewrites what the layer remembers.

  Args:
    number: of the window in the segment.
    told: keys and values of the states that the layer reads, or None.
  """
  layer = params if told is None else params.tokens
  queued = config.system == MEMORIZING and spec.increment > 0
  hidden = norm(x, layer.attention_norm)
  query = unit(heads(hidden, layer.query, config.num_heads))
  key, value = keys_and_values(layer, config, hidden)
  queue: Any = queue_of(layer, config, own, x.dtype) if queued else None
  row: Any = None
  if queued and not config.neighbors.count:
    out = list(attend_to_queue_and_window(layer, config, query, queue, key, value))
  else:
    row = with_cache(layer, spec, config, own, key, value)
    out = list(attend_locally(layer, spec, config, query, row, positions=not queued))
  if queued and config.neighbors.count:
    # The official gate b is the share of what is retrieved; ours is that of the local heads.
    local = jax.nn.sigmoid(layer.gate)
    found = retrieve(layer, config, query, queue)
    out = [g * a + (1 - g) * b for g, a, b in zip(local, out, found, strict=True)]
  if told is not None:
    cross = unit(heads(hidden, params.cross, config.num_heads))
    states_key, states_value = told
    out += list(attend(cross, states_key, states_value, params.cross_temperature))
  above = x + jnp.concatenate(out, axis=-1) @ layer.out
  above = above + feed_forward(layer, above)
  if queued and not config.neighbors.count and config.reference_defects:
    above = above + x

  entries = entries_of(config, x, key, value)
  if spec.short_tokens:
    own.remember(spec, entries, config.window_length - x.shape[0])
  if queued:
    own.new.append((number, entries))
  if told is not None and params.states is not None:
    own.states = next_states(params.states, config, own.states, *row[:2])
  return above


def read_segment(
  layers: list[Any],
  config: MelodiConfig,
  x: Any,
  memory: Memory,
  positions: np.ndarray,
  segment_ids: np.ndarray,
) -> tuple[jax.Array, Memory]:
  """Reads one segment of every row; arguments as `schedule.read_segment`, but unstacked layers.

  Outputs at padding are zeros.
  """
  ys, afters = [], []
  for row in range(x.shape[0]):
    own = Memory(memory.short[:, row], memory.long[:, row], np.asarray(memory.windows)[row])
    y, document = read_row(layers, config, x[row], own, positions[row], segment_ids[row])
    ys.append(y)
    afters.append(write_down(document, config, own))
  short, long, windows = zip(*afters, strict=True)
  return jnp.stack(ys), Memory(
    jnp.stack(short, axis=1), jnp.stack(long, axis=1), jnp.array(windows, jnp.int32)
  )


def read_row(layers, config: MelodiConfig, x, memory: Memory, positions, segment_ids):
  """Reads one row, window by window, layer by layer; returns also its last document."""
  documents = [recollect(config, memory)]
  length, width = config.window_length, x.shape[1]
  ys = []
  for number, first in enumerate(range(0, x.shape[0], length)):
    text = int((np.asarray(segment_ids[first : first + length]) > 0).sum())
    if text and int(positions[first]) == 0:
      documents.append(Document(config))
    document, context = documents[-1], x[first : first + text]
    if text:
      told = tell(layers, config, document)
      for layer, spec, own, read in zip(layers, config.layers, document.layers, told, strict=True):
        context = read_window(layer, spec, config, context, own, number, read)
      document.windows += 1
    ys.append(jnp.concatenate([context, jnp.zeros((length - text, width), x.dtype)]))
  return jnp.concatenate(ys), documents[-1]


def tell(layers, config: MelodiConfig, document: Document) -> list:
  """Per layer, keys and values of the states that it reads in the next window, or None."""
  told = []
  for layer, spec, own in zip(layers, config.layers, document.layers, strict=True):
    recurrent = config.system == BLOCK_RECURRENT and spec.increment > 0
    if recurrent and own.states is None:
      own.states = layer.states.initial
    told.append(keys_and_values_of_states(layer.states, config, own.states) if recurrent else None)
  if config.system == BLOCK_RECURRENT and config.recurrence.feedback:
    (pairs,) = (pairs for pairs in told if pairs is not None)
    return [pairs] * len(told)
  return told
