"""Sinks and a cache around MaxText's own layers: exactly attention under the mask that says so."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from integration_tests.stock_model import BLOCKS, WINDOW
from melodi_plugin.conformance.stacks import read_rows
from melodi_plugin.systems.table import empty_memory

SINKS, CACHE, WINDOWS = 3, 20, 5
CACHED = {
  "melodi_cache_tokens": CACHE,
  "melodi_sink_tokens": SINKS,
  "melodi_summary_tokens": 0,
  "melodi_short_term_tokens": 0,
  "melodi_long_term_increment": 0,
}
FEW = {"base_num_decoder_layers": 2}
SCALED = {"rope_type": "llama3.1", "base_num_decoder_layers": 1}
CASES = {block: (block, {} if block == "gemma3" else FEW) for block in BLOCKS}
CASES["llama2, llama3.1's RoPE"] = ("llama2", SCALED)
# Most are slow: `uv run pytest -m slow integration_tests/stock_cache_test.py`.
each = pytest.mark.parametrize(
  "case", [c if c == "llama2" else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@functools.cache
def model(case: str):
  """A random model with sinks and a cache."""
  block, more = CASES[case]
  found = stock_model.build(stock_model.new_config(block, **(CACHED | more)))
  stock_model.randomize(found)
  return found


def layers_of(case: str):
  """Sections of the stack, and of every layer its block and the block's parameters."""
  with jax.set_mesh(model(case).decoder.mesh):
    sections = model(case).decoder.sections()
  return sections, [
    (section.cell.reader.block, jax.tree.map(lambda leaf, i=i: leaf[i], section.params.block))
    for section in sections
    for i in range(section.run.length)
  ]


# -- The slow, obvious version ---------------------------------------------------------------------


def attend(attention, query, row, distance, free):
  """Softmax over the keys of a row that a query sees; those that are `free` from everywhere."""
  groups = query.shape[2] // row[0].shape[2]
  key, value = (jnp.repeat(leaf, groups, axis=2) for leaf in row)
  logits = jnp.einsum("btnh,bsnh->bnts", query, key)
  if attention.soft_cap:
    logits = attention.soft_cap * jnp.tanh(logits / attention.soft_cap)
  seen = distance >= 0
  if attention.sliding_window:
    seen &= (distance < attention.sliding_window) | free
  weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf))
  return jnp.einsum("bnts,bsnh->btnh", weights, value)


def run(block, params, x, first, core):
  """The block over a window whose first token stands at `first`; `core(index, query, key, value)`.

  Its RoPE is asked for every position anew, so that none is turned.
  """
  cores = [functools.partial(core, index) for index in range(len(block.attentions))]
  positions = jnp.broadcast_to(first + jnp.arange(WINDOW, dtype=jnp.int32), x.shape[:2])
  return block(params, x, positions, cores)


def slow_layer(block, params, x):
  """A layer over a document, window by window, each over [sinks | cache | window].

  Sinks stand in front only when the cache has lost their tokens.
  """
  windows = jnp.split(x, x.shape[1] // WINDOW, axis=1)
  attended = []  # per window what each attention gave
  out = []

  def pairs_of(number, first):
    """Per attention keys and values of an earlier window, as they are if it stands at `first`."""
    found = []

    def core(index, query, key, value):
      found.append((key, value))
      return attended[number][index]

    run(block, params, windows[number], first, core)
    return found

  for number, window in enumerate(windows):
    start = number * WINDOW
    cached = range(max(start - CACHE, 0), start)
    sinks = [m for m in range(min(SINKS, start)) if m not in cached]
    places = [m - SINKS - CACHE for m in sinks] + [m - start for m in cached]
    distance = np.arange(WINDOW)[:, None] - np.array([*places, *range(WINDOW)])
    free = np.arange(distance.shape[1]) < len(sinks)
    earlier = [pairs_of(j, (j - number) * WINDOW) for j in range(number)]
    first = pairs_of(0, -SINKS - CACHE) if sinks else []
    attended.append([])

    def core(
      index,
      query,
      *own,
      earlier=earlier,
      first=first,
      cached=cached,
      sinks=sinks,
      distance=distance,
      free=free,
    ):
      row = []
      for leaf in range(2):
        before = [pairs[index][leaf] for pairs in earlier]
        before = [jnp.concatenate(before, axis=1)[:, cached.start : cached.stop]] if before else []
        front = [first[index][leaf][:, : len(sinks)]] if sinks else []
        row.append(jnp.concatenate([*front, *before, own[leaf]], axis=1))
      attended[-1].append(attend(block.attentions[index], query, row, distance, free))
      return attended[-1][-1]

    out.append(run(block, params, window, 0, core))
  return jnp.concatenate(out, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_attention_under_the_mask_that_says_the_same(case):
  """Over five windows read at once, and in two segments."""
  sections, layers = layers_of(case)
  melodi = model(case).decoder.melodi
  chance = np.random.default_rng(0)
  x, weights = (
    jnp.asarray(chance.normal(size=(2, WINDOWS * WINDOW, melodi.emb_dim)), jnp.float32)
    for _ in range(2)
  )
  positions = np.tile(np.arange(x.shape[1], dtype=np.int32), (2, 1))
  empty, no_summary = empty_memory(melodi, 2), jnp.zeros((0, melodi.emb_dim))

  def read(sections, x, memory, positions):
    ids = np.ones_like(positions)
    return read_rows(sections, melodi, x, no_summary, memory, positions, ids)

  def slow(params, x):
    for (block, _), own in zip(layers, params, strict=True):
      x = slow_layer(block, own, x)
    return jnp.sum(x * weights), x

  def fast(params, x):
    own, at = [], 0
    for section in sections:
      run = params[at : at + section.run.length]
      stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *run)
      own.append(section._replace(params=section.params._replace(block=stacked)))
      at += section.run.length
    y, _ = read(own, x, empty, positions)
    return jnp.sum(y * weights), y

  params = [own for _, own in layers]
  both = []
  for run in (fast, slow):
    gradients = jax.jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True, allow_int=True))
    both.append(gradients(params, x))
  ((_, y), found), ((_, expected), wanted) = both
  scale = np.abs(expected).max()
  np.testing.assert_allclose(y, expected, atol=1e-5 * scale)
  for own, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    if own.dtype != jax.dtypes.float0:
      np.testing.assert_allclose(own, other, atol=1e-4 * max(np.abs(other).max(), 1e-3))

  pieces, memory = [], empty
  for cut in (slice(0, 3 * WINDOW), slice(3 * WINDOW, None)):
    piece, memory = read(sections, x[:, cut], memory, positions[:, cut])
    pieces.append(piece)
  np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, atol=1e-5 * scale)


@each
def test_document_no_longer_than_cache_and_window_is_read_as_by_full_attention(case):
  """By MaxText's own model, which has the same weights, over C + W tokens."""
  block, more = CASES[case]
  length = {"melodi_cache_tokens": WINDOW, "max_target_length": 2 * WINDOW}
  stock = stock_model.build(
    stock_model.new_config(block, melodi=False, max_target_length=2 * WINDOW, **more)
  )
  stock_model.randomize(stock)
  grafted = stock_model.build(stock_model.new_config(block, **(CACHED | more | length)))
  stock_model.copy_stock(stock, grafted)
  tokens = np.random.default_rng(1).integers(0, 64, (2, 2 * WINDOW), np.int32)
  positions = np.tile(np.arange(2 * WINDOW, dtype=np.int32), (2, 1))
  batch = tuple(map(jnp.asarray, (tokens, positions, np.ones_like(tokens))))
  found, expected = (
    np.asarray(stock_model.reader(own)(nnx.state(own), *batch)[0]) for own in (grafted, stock)
  )
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_queues_of_pairs_in_all_layers_are_those_of_tokens(block):
  """The models have the same weights, and read two segments, each with the memory of the first."""
  memory = {"melodi_cache_tokens": WINDOW, "melodi_sink_tokens": SINKS}
  memory |= {"melodi_long_term_layers": "all"}
  read, states = [], []
  for pairs in (False, True):
    more = memory | {"melodi_long_term_pairs": pairs}
    model = stock_model.build(stock_model.new_config(block, **more))
    assert model.decoder.melodi.long_term_pairs == pairs
    stock_model.randomize(model)
    read.append(stock_model.reader(model))
    states.append(nnx.state(model))
  length = model.decoder.config.max_target_length
  tokens = np.random.default_rng(1).integers(0, 64, (2, 2 * length), np.int32)
  positions = np.tile(np.arange(2 * length, dtype=np.int32), (2, 1))
  for cut in (slice(0, length), slice(length, None)):
    own = tokens[:, cut], positions[:, cut], np.ones_like(tokens[:, cut])
    outputs = []
    for kind in range(2):
      logits, states[kind] = read[kind](states[kind], *map(jnp.asarray, own))
      outputs.append(np.asarray(logits))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=2e-5 * np.abs(outputs[0]).max())
