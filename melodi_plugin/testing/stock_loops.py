"""The cell around the block of `stock`, in loops.  For tests.

Written from what a stock cell promises: padding is cut off, a queue is a list of tokens, a cache is
the document's tokens by their numbers, and what a token sees is asked pair by pair.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.core.memories.short_term import MixedAndCached
from melodi_plugin.core.memory import Memory
from melodi_plugin.reference import melodi as naive
from melodi_plugin.testing.stock import ATTENTIONS, TwoAttentions, W, turned


class Part(NamedTuple):
  """Tokens that stand before a window, as one attention finds them."""

  key: Any  # (s, H)
  value: Any
  places: list[int | None]  # the window's first token is 0; None: seen from everywhere
  offset: bool = False


class Document:
  """What one layer knows of a document: everything, of which `slow_row` uses what may be known.

  Attributes:
    short: mixed tokens (S, D), or None.
    queue: tokens of the queue.
    pairs: per attention (key at position 0, value) of the document's tokens, by their numbers.
  """

  def __init__(self):
    self.short, self.queue, self.pairs = None, [], {}


def before_window(params, config, spec, own: Document, first: int) -> list[list[Part]]:
  """Per attention what stands before the window whose first token has the number `first`."""
  found: list[list[Part]] = [[], []]
  if not first:
    return found
  begin, end = -spec.short_tokens + spec.sink_tokens, -spec.cache_tokens
  if own.short is not None and spec.mixed_tokens:
    for index, (key, value) in enumerate(tap(params, config, own.short, range(begin, end))):
      found[index].append(Part(key, value, [None] * spec.mixed_tokens, offset=True))
  cached = range(max(first - spec.cache_tokens, 0), first)
  numbers = [(m, m - first, m - first) for m in cached]
  sinks = (m for m in range(spec.sink_tokens) if m not in cached)
  numbers += [(m, m - spec.short_tokens, None) for m in sinks]
  for number, position, place in numbers:
    for index, (key, value) in enumerate(own.pairs[number]):
      at = turned(key[None, None], jnp.asarray([position]))[0]
      found[index].append(Part(at, value[None], [place]))
  return found


def tap(params, config, tokens, positions) -> list[tuple]:
  """Per attention keys and values (s, H) of tokens."""
  positions = jnp.asarray(list(positions), jnp.int32)[None]
  pairs = TwoAttentions(config).project(params.block, jnp.stack(list(tokens))[None], positions)
  return [(key[0, :, 0], value[0, :, 0]) for key, value in pairs]


def slow_seen(index, n, queries):
  """Which tokens of the row a query sees, one by one: n context tokens, then summary tokens."""
  seen = np.zeros((queries, queries), bool)
  for t in range(queries):
    for s in range(t + 1):
      near = ATTENTIONS[index].sliding_window
      seen[t, s] = t >= n or near is None or t - s < near
  return seen


def slow_core(params, index, config, n, before, queue):
  """Attention `index` over the n context tokens and the summary tokens of one window.

  `queue` are the (keys, values) of what the layer remembers for long, (s, H), or None.
  """
  cap, near = ATTENTIONS[index].soft_cap, ATTENTIONS[index].sliding_window

  def logits(query, key):
    found = jnp.einsum("tnh,sh->nts", query, key)
    return cap * jnp.tanh(found / cap) if cap else found

  def attend(scores, seen, value):
    return jnp.einsum("nts,sh->tnh", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), value)

  def core(query, key, value):
    query, key, value = query[0], key[0, :, 0], value[0, :, 0]
    scores, seen = logits(query, key), slow_seen(index, n, len(query))
    # The window's first token is a sink, where those of the document are not in sight.
    later = np.arange(len(query)) > (0 if n and not config.sink_tokens else -1)
    for part in before:
      extra = logits(query, part.key)
      extra = extra + params.offset[index][:, None, None] if part.offset else extra
      scores = jnp.concatenate([extra, scores], axis=-1)
      free = [near is None or place is None for place in part.places]
      sees = [
        [later[t] and (f or t >= n or t - p < near) for f, p in zip(free, part.places, strict=True)]
        for t in range(len(query))
      ]
      seen = np.concatenate([np.array(sees, bool), seen], axis=1)
      value = jnp.concatenate([part.value, value])
    own = attend(scores, seen, value)
    if queue is not None:
      cross = attend(logits(query, queue[0]), True, queue[1])
      share = jax.nn.sigmoid(-params.gate[index].astype(jnp.float32)).astype(own.dtype)
      own = own + jnp.where(later[:, None, None], share * (cross - own), 0)
    return own[None]

  return core


def slow_window(params, config, spec, x, u, own: Document, first: int):
  """One layer over one window of n tokens of text: x (n, D), u (U, D); changes `own`."""
  block, n = TwoAttentions(config), x.shape[0]
  queued = tap(params, config, own.queue, [0] * len(own.queue)) if own.queue else [None, None]
  before = before_window(params, config, spec, own, first)
  cores = [slow_core(params, i, config, n, before[i], queued[i]) for i in range(2)]
  positions = jnp.concatenate([jnp.arange(n), W + jnp.arange(u.shape[0])])[None]
  made = []

  def keeping(core):
    """A core that also notes the keys, turned back to position 0, and the values that it gets."""

    def own_core(query, key, value):
      made.append((turned(key, -positions)[0, :, 0], value[0, :, 0]))
      return core(query, key, value)

    return own_core

  row = jnp.concatenate([x, u])[None]
  out = block(params.block, row, positions, list(map(keeping, cores)))[0]
  for token in range(n):
    own.pairs[first + token] = [(key[token], value[token]) for key, value in made]
  above, u = out[:n], out[n:]
  # Mixers read the context below the layer, and the summary tokens above it.
  mixed, own.short, increment = u, u[: spec.mixed_tokens], []
  if params.summary_mixer is not None:
    mixed = naive.mix(params.summary_mixer, x, u, True)
  if params.short_mixer is not None:
    own.short = naive.mix(params.short_mixer, x, u, False)
  if params.long_mixer is not None:
    increment = list(naive.mix(params.long_mixer, x, u, False))
  own.queue = (own.queue + increment)[-config.queue_tokens :] if increment else own.queue
  return above, mixed


def slow_read(config, positions, ids, held_before):
  """A segment in loops over rows, windows and layers, as `read_segment` returns it."""

  def read(layers, x, summary, memory):
    y, after, held = [], [], []
    for row in range(x.shape[0]):
      own = layers_of(config, memory, row, int(held_before[row]))
      before, text = int(held_before[row]), (positions[row], ids[row])
      out, own, windows = slow_row(layers, config, x[row], summary, own, before, *text)
      y.append(out)
      after.append(own)
      held.append(windows)
    with_short = [i for i, spec in enumerate(config.layers) if spec.short_tokens]
    with_long = [i for i, spec in enumerate(config.layers) if spec.queue_tokens]
    rows = list(zip(after, held, strict=True))
    short = [[kept_short(config, own[i], windows) for own, windows in rows] for i in with_short]
    long = [jnp.stack([filled(config, own[i].queue) for own, _ in rows]) for i in with_long]
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    short = [jax.tree.map(stack, *own) for own in short]
    return jnp.stack(y), Memory(
      jax.tree.map(stack, *short) if short else memory.short,
      jnp.stack(long) if long else memory.long,
      jnp.asarray(held, jnp.int32),
    )

  return read


def kept_short(config, own: Document, held: int):
  """What is stored of a layer's short-term memory after `held` windows."""
  if not config.cache_tokens + config.sink_tokens:
    return own.short

  def entry(number: int):
    if number not in own.pairs:
      return jnp.zeros(config.cache_width)
    at = jnp.asarray([number % W])
    turn = lambda key: turned(key[None, None], at)[0, 0]  # noqa: E731
    return jnp.concatenate(
      [leaf for key, value in own.pairs[number] for leaf in (turn(key), value)]
    )

  last = range(held * W - config.cache_tokens, held * W)
  cached = [entry(number) for number in (*range(config.sink_tokens), *last)]
  mixed = jnp.zeros((0, config.emb_dim)) if own.short is None else own.short
  return MixedAndCached(mixed, jnp.stack(cached))


def filled(config, queue):
  """A queue with zeros in its empty slots."""
  empty = [jnp.zeros(config.emb_dim)] * (config.queue_tokens - len(queue))
  return jnp.stack(empty + queue)


def layers_of(config, memory, row, held: int) -> list[Document]:
  """What every layer knows of the document that goes on in a row."""
  found = [Document() for _ in config.layers]
  with_short = [own for own, spec in zip(found, config.layers, strict=True) if spec.short_tokens]
  for index, own in enumerate(with_short):
    short = jax.tree.map(lambda leaf, index=index: leaf[index, row], memory.short)
    own.short = short.mixed if isinstance(short, MixedAndCached) else short
    if isinstance(short, MixedAndCached):
      own.pairs = pairs_in(config, short.cached, held)
  tokens = min(held * config.long_term_increment, config.queue_tokens)
  with_long = [own for own, spec in zip(found, config.layers, strict=True) if spec.queue_tokens]
  for index, own in enumerate(with_long):
    own.queue = list(memory.long[index, row, config.queue_tokens - tokens :])
  return found


def pairs_in(config, cached, held: int) -> dict[int, list[tuple]]:
  """The tokens of which sinks and cache hold keys and values, by their numbers."""
  numbers = [*range(config.sink_tokens), *range(held * W - config.cache_tokens, held * W)]
  found = {}
  for number, entry in zip(numbers, cached, strict=True):
    if held and number >= 0:
      parts = entry.reshape(2, 2, config.head_dim)  # attentions; key and value
      back = jnp.asarray([-(number % W)])
      found[number] = [(turned(key[None, None], back)[0, 0], value) for key, value in parts]
  return found


def slow_row(layers, config, x, summary, own: list[Document], held, positions, ids):
  """One row through all windows and layers; `own` is per layer."""
  y = [jnp.zeros_like(x[:0])]
  for start in range(0, len(ids), W):
    n = int((ids[start : start + W] > 0).sum())
    if n and positions[start] == 0:
      held, own = 0, [Document() for _ in layers]
    h, u = x[start : start + n], summary
    for layer, spec, known in zip(layers, config.layers, own, strict=True):
      if n:
        h, u = slow_window(layer, config, spec, h, u, known, held * W)
    held += n > 0
    y.append(jnp.concatenate([h, jnp.zeros((W - n, config.emb_dim))]))
  return jnp.concatenate(y), own, held
