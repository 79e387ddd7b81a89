"""The slow, obvious version: Python loops over rows, windows and layers.  Tests compare with it.

Written from SEMANTICS.md, not from the fast path, and shares with it only the parameters' container
and the config.  Padding is cut off instead of masked, a queue is a Python list of tokens instead of
a masked buffer, and every window attends to concatenated arrays.  Any float dtype.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.memory import Memory
from melodi_plugin.systems.paper.layer import PaperLayer


def norm(x, gain):
  """RMS norm without bias."""
  return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * gain


def heads(x, kernel, num_heads):
  """(t, D) tokens -> (N, t, H)."""
  return jnp.stack(jnp.split(x @ kernel, num_heads, axis=-1))


def unit(x):
  """Vectors of length 1."""
  return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def bucket(distance: int) -> int:
  """T5's bucket of a distance: 32 buckets, up to 128, looking back only."""
  if distance < 16:
    return max(distance, 0)
  return min(31, 16 + math.floor(math.log(distance / 16) / math.log(8) * 16))


def softmax_with_null(logits):
  """Softmax in which a constant logit of -1000 takes part and is then discarded."""
  null = jnp.full((*logits.shape[:-1], 1), -1000.0, logits.dtype)
  return jax.nn.softmax(jnp.concatenate([logits, null], axis=-1), axis=-1)[..., :-1]


def mix(mixer, x, u, residual):
  """A token mixer over the n context tokens that are text, and the summary tokens."""
  window = mixer.kernel.shape[0] - u.shape[0]
  kernel = jnp.concatenate([mixer.kernel[: x.shape[0]], mixer.kernel[window:]])
  if mixer.context_norm is not None:
    x = norm(x, mixer.context_norm)
  tokens = jnp.concatenate([x, u if mixer.summary_norm is None else norm(u, mixer.summary_norm)])
  mixed = kernel.T @ tokens + mixer.bias[:, None]
  return mixed + u if residual else mixed


def attend(temperature, query, key, value, bias, seen):
  """(N, t, H) queries over (N, s, H) keys -> (N, t, H)."""
  logits = (query @ jnp.swapaxes(key, 1, 2) + bias) * jnp.abs(temperature)[:, None, None]
  return softmax_with_null(jnp.where(seen, logits, -1e6)) @ value


def read_window(
  layer: PaperLayer, spec: LayerSpec, config: MelodiConfig, x: Any, u: Any, z: Any, queue: Any, held
):
  """One layer, one window of one row: n <= W tokens of text, U summary tokens.

  Args:
    z: (S, D) short-term memory; queue: (M, D) long-term queue; held: windows they hold.

  Returns:
    x, u for the layer above, the next z, and the increment or None.
  """
  count, length = config.num_heads, config.window_length
  tokens = jnp.concatenate([x, u])
  hidden, remembered = norm(tokens, layer.attention_norm), norm(z, layer.attention_norm)
  query = unit(heads(hidden, layer.query, count))
  everything = jnp.concatenate([remembered, hidden])
  key, value = unit(heads(everything, layer.key, count)), heads(everything, layer.value, count)

  # Places in the row [z | x | u]; u stands behind a full window, also where x is short.
  size = z.shape[0]
  places = [*range(size + x.shape[0]), *(size + length + j for j in range(u.shape[0]))]
  distance = [[i - j for j in places] for i in places[size:]]
  seen = np.array(distance) > 0
  if config.mask_empty_slots and held == 0:
    seen[:, :size] = False
  bias = jnp.zeros(())
  if layer.position_bias is not None:
    bias = layer.position_bias[:, np.array([[bucket(d) for d in row] for row in distance])]
  out = attend(layer.temperature, query, key, value, bias, seen)

  if layer.gate is not None:
    hidden = norm(queue, layer.attention_norm)
    key, value = unit(heads(hidden, layer.key, count)), heads(hidden, layer.value, count)
    seen = np.ones(queue.shape[0], bool)
    if config.mask_empty_slots:
      seen[: max(0, queue.shape[0] - held * spec.increment)] = False
    own = layer.long_temperature
    warmth = layer.temperature if own is None else own
    cross = attend(warmth, query, key, value, jnp.zeros(()), seen)
    gate = jax.nn.sigmoid(layer.gate)[:, None]
    out = gate * out + (1 - gate) * cross

  tokens = tokens + jnp.concatenate(list(out), axis=-1) @ layer.out
  assert layer.ffn_in_bias is not None and layer.ffn_out_bias is not None
  hidden = jax.nn.relu(norm(tokens, layer.ffn_norm) @ layer.ffn_in + layer.ffn_in_bias)
  tokens = tokens + hidden @ layer.ffn_out + layer.ffn_out_bias
  x, u = tokens[: x.shape[0]], tokens[x.shape[0] :]

  above, short, increment = u, u[:size], None
  if layer.summary_mixer is not None:
    above = mix(layer.summary_mixer, x, u, residual=True)
  if layer.short_mixer is not None:
    short = mix(layer.short_mixer, x, u, residual=size == u.shape[0])
  if layer.long_mixer is not None:
    increment = mix(layer.long_mixer, x, u, residual=False)
  return x, above, short, increment


def read_segment(
  layers: list[PaperLayer],
  config: MelodiConfig,
  x: Any,
  summary: Any,
  memory: Memory,
  positions: np.ndarray,
  segment_ids: np.ndarray,
) -> tuple[jax.Array, Memory]:
  """Reads one segment of every row; arguments as `schedule.read_segment`, but unstacked layers.

  Outputs at padding are zeros.
  """
  rows = []
  for row in range(x.shape[0]):
    own = Memory(memory.short[:, row], memory.long[:, row], np.asarray(memory.windows)[row])
    rows.append(read_row(layers, config, x[row], summary, own, positions[row], segment_ids[row]))
  ys, shorts, longs, counts = zip(*rows, strict=True)
  return jnp.stack(ys), Memory(
    jnp.stack(shorts, axis=1), jnp.stack(longs, axis=1), jnp.array(counts, jnp.int32)
  )


def read_row(layers, config: MelodiConfig, x, summary, memory: Memory, positions, segment_ids):
  """Reads one row, window by window, layer by layer."""
  short, long, held = list(memory.short), list(memory.long), int(memory.windows)
  length, width = config.window_length, x.shape[1]
  ys = []
  for first in range(0, x.shape[0], length):
    text = int((np.asarray(segment_ids[first : first + length]) > 0).sum())
    if text == 0:
      ys.append(jnp.zeros((length, width), x.dtype))
      continue
    if int(positions[first]) == 0:
      short, long, held = [z * 0 for z in short], [queue * 0 for queue in long], 0
    context, u = x[first : first + text], summary
    shorts, longs = iter(range(len(short))), iter(range(len(long)))
    for layer, spec in zip(layers, config.layers, strict=True):
      s = next(shorts) if spec.short_tokens else None
      q = next(longs) if spec.increment else None
      z = jnp.zeros((0, width), x.dtype) if s is None else short[s]
      queue: Any = None if q is None else long[q]
      new: Any
      increment: Any
      context, u, new, increment = read_window(layer, spec, config, context, u, z, queue, held)
      if s is not None:
        short[s] = new
      if q is not None:
        long[q] = jnp.concatenate([long[q][spec.increment :], increment])
    held += 1
    ys.append(jnp.concatenate([context, jnp.zeros((length - text, width), x.dtype)]))
  return (
    jnp.concatenate(ys),
    jnp.stack(short) if short else memory.short,
    jnp.stack(long) if long else memory.long,
    held,
  )
