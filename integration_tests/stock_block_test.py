"""Memory around MaxText's own layers: the stock model where memory has nothing to say, and exact.

Every block is probed here, so an entry of `stock_block.PARTS` that names the wrong norm, or a core
that MaxText calls differently, fails.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from integration_tests.stock_model import BLOCKS, SHORT, SUMMARY, WINDOW
from melodi_plugin.config.parameter_names import is_memory_parameter
from melodi_plugin.core.cell import Streams
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.segments import plan_windows
from melodi_plugin.testing.cases import broad_but

# One attention, and two of which one has a window; experts and another pattern of layers are broad,
# and the others, which differ from these in nothing that is probed, are slow.
KINDS = ("llama2", "gemma2")
ALIKE = sorted(set(BLOCKS) - {*KINDS, "qwen3_moe", "gemma3"})


def each(names):
  """A parameter of tests, of blocks or cases of blocks."""
  return broad_but(KINDS, names, slow=ALIKE)


each_block = pytest.mark.parametrize("block", each(BLOCKS))
# A layer with a queue below one without: every kind of layers is compiled.
FEW = {"base_num_decoder_layers": 2, "melodi_long_term_layers": "0"}
LAYERS = {block: {} if block == "gemma3" else FEW for block in BLOCKS}  # its pattern is longer
LENGTH, SEGMENTS = 2 * WINDOW, 2
YARN = {"rope_type": "yarn", "max_position_embeddings": 64, "original_max_position_embeddings": 32}


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@functools.cache
def models(block: str, **more):
  """A random stock model, and one with memory that has its weights."""
  more = LAYERS[block] | more
  stock = stock_model.build(
    stock_model.new_config(block, melodi=False, max_target_length=WINDOW, **more)
  )
  stock_model.randomize(stock)
  grafted = stock_model.build(stock_model.new_config(block, **more))
  stock_model.randomize(grafted, seed=1)
  stock_model.copy_stock(stock, grafted)
  return stock, grafted


@functools.cache
def readers(block: str, **more):
  """The compiled readers of `models`."""
  return tuple(stock_model.reader(model) for model in models(block, **more))


def batches():
  """Tokens, positions and segment ids of two segments of two windows, for two rows.

  Row 0: one document of four windows.  Row 1: one of 21 tokens, and one of three windows.
  """
  tokens = np.random.default_rng(2).integers(0, 64, (2, SEGMENTS * LENGTH), np.int32)
  positions = np.tile(np.arange(SEGMENTS * LENGTH, dtype=np.int32), (2, 1))
  ids = np.ones_like(positions)
  ids[1, 21:LENGTH] = 0
  positions[1, LENGTH:], ids[1, LENGTH:] = np.arange(LENGTH), 2
  return tokens, positions, ids


def segments() -> list[tuple[jax.Array, ...]]:
  """The batches of `batches`, one after the other."""
  cut = lambda leaf, k: jnp.asarray(leaf[:, k * LENGTH : (k + 1) * LENGTH])  # noqa: E731
  return [tuple(cut(leaf, k) for leaf in batches()) for k in range(SEGMENTS)]


def read_grafted(block: str, state=None, **more) -> np.ndarray:
  """Logits of the model with memory over both segments."""
  read = readers(block, **more)[1]
  state = nnx.state(models(block, **more)[1]) if state is None else state
  logits = []
  for segment in segments():
    out, state = read(state, *segment)
    logits.append(np.asarray(out))
  return np.concatenate(logits, axis=1)


@functools.cache
def stock_windows(block: str, **more) -> np.ndarray:
  """Logits of the stock model over every window alone, with positions from 0."""
  tokens, _, ids = batches()
  windows = tokens.reshape(-1, WINDOW)
  positions = np.tile(np.arange(WINDOW, dtype=np.int32), (len(windows), 1))
  ids = (ids.reshape(-1, WINDOW) > 0).astype(np.int32)
  state = nnx.state(models(block, **more)[0])
  out, _ = readers(block, **more)[0](state, *map(jnp.asarray, (windows, positions, ids)))
  return np.asarray(out).reshape(*tokens.shape, -1)


def assert_same_logits(found, expected, where) -> None:
  """Equal to 1e-5 of the largest logit, at the tokens `where`."""
  scale = np.abs(expected[where]).max()
  assert scale > 0.1
  assert np.abs(found - expected)[where].max() <= 1e-5 * scale


def with_memory_parameters(grafted: nnx.Module, **values: float):
  """The model's state with all offsets or gates set to a value."""
  state = stock_model.state_of(grafted)
  for path, leaf in nnx.to_flat_state(state):
    if path[-1] in values:
      leaf[...] = jnp.full_like(leaf[...], values[path[-1]])
  return state


@functools.cache
def random_state(block: str, **more):
  """Large random offsets and gates, so that memory is read as well as ignored."""
  state, chance = stock_model.state_of(models(block, **more)[1]), np.random.default_rng(3)
  for path, leaf in nnx.to_flat_state(state):
    if path[-1] in ("offset", "gate"):
      leaf[...] = jnp.asarray(3 * chance.normal(size=leaf.shape), leaf[...].dtype)
  return state


CASES = {block: (block, {}) for block in BLOCKS} | {
  "llama2, yarn": ("llama2", YARN | {"base_num_decoder_layers": 1})
}


@pytest.mark.parametrize("case", each(CASES))
def test_first_window_of_a_document_has_the_logits_of_the_stock_model(case):
  block, more = CASES[case]
  _, positions, ids = batches()
  first = (positions < WINDOW) & (ids > 0)
  found = read_grafted(block, random_state(block, **more), **more)
  expected = stock_windows(block, **more)
  assert_same_logits(found, expected, first)
  later = (positions >= WINDOW) & (ids > 0)
  assert np.abs(found - expected)[later].max() > 1e-2 * np.abs(expected).max()  # memory is read


@pytest.mark.parametrize("case", each(CASES))
def test_memory_that_is_hidden_leaves_the_stock_model_on_every_window(case):
  block, more = CASES[case]
  grafted = models(block, **more)[1]
  state = with_memory_parameters(grafted, offset=-math.inf, gate=math.inf)
  found = read_grafted(block, state, **more)
  assert_same_logits(found, stock_windows(block, **more), batches()[2] > 0)
  assert np.isfinite(found).all()


def test_keys_of_the_config_hide_memory():
  """What the test above puts into the parameters, as a user writes it."""
  hiding = {"melodi_memory_offset": "-.inf", "melodi_memory_gate": ".inf"}
  words = [f"{key}={value}" for key, value in hiding.items()]
  config = running.initialize(*words, **stock_model.keys("llama2"))
  params = stock_model.params_of(stock_model.build(config))
  offsets = [leaf[...] for name, leaf in params.items() if name.endswith("/offset")]
  gates = [leaf[...] for name, leaf in params.items() if name.endswith("/gate")]
  assert offsets and all((leaf == -math.inf).all() for leaf in offsets)
  assert gates and all((leaf == math.inf).all() for leaf in gates)


# -- Scanned and unscanned -------------------------------------------------------------------------


@pytest.mark.parametrize("block", broad_but(["llama2"], ["llama2", "gemma3"]))
def test_scanned_layers_equal_unscanned_ones(block):
  scanned = models(block)[1]
  params = {}
  for name, leaf in stock_model.params_of(scanned).items():
    params |= stock_model.unscanned(name, leaf[...])
  model = stock_model.build(stock_model.new_config(block, scan_layers=False, **LAYERS[block]))
  own = stock_model.params_of(model)
  assert own.keys() == params.keys()
  for name, leaf in own.items():
    leaf[...] = params[name]
  read, state, logits = stock_model.reader(model), nnx.state(model), []
  for segment in segments():
    out, state = read(state, *segment)
    logits.append(np.asarray(out))
  text = batches()[2] > 0
  assert_same_logits(np.concatenate(logits, axis=1), read_grafted(block), text)


@pytest.mark.parametrize("block", broad_but([], ["llama2", "qwen3_moe", "gemma3"], slow=["gemma3"]))
def test_layers_of_a_diagonal_read_at_once_give_the_same(block):
  text = batches()[2] > 0
  assert_same_logits(read_grafted(block, melodi_schedule="diagonal"), read_grafted(block), text)


# -- The block's own keys and values ---------------------------------------------------------------


def section_with_queue(block: str, **more):
  """The section of the layer that has a queue, and the parameters of that layer."""
  with jax.set_mesh(models(block, **more)[1].decoder.mesh):
    sections = models(block, **more)[1].decoder.sections()
  (section,) = (section for section in sections if section.run.spec.increment)
  return section, jax.tree.map(lambda leaf: leaf[0], section.params)


def silence_first_half(params):
  """Gemma2's layer without its first attention and network: its second attention sees the input."""

  def silence(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    silent = name.startswith(("self_attention_local/out/", "mlp_local/wo/"))
    return jnp.zeros_like(leaf) if silent else leaf

  return jax.tree_util.tree_map_with_path(silence, params)


@each_block
def test_tapped_keys_and_values_are_those_that_the_block_makes(block):
  section, layer = section_with_queue(block)
  own, params = section.cell.reader.block, layer.block
  if block == "gemma2":
    params = silence_first_half(params)
  tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, SHORT + WINDOW, 32)), jnp.float32)
  positions = jnp.broadcast_to(jnp.arange(-SHORT, WINDOW, dtype=jnp.int32), tokens.shape[:2])
  found = []

  def core(query, key, value):
    found.append((key, value))
    return jnp.zeros_like(query)

  own(params, tokens, positions, [core] * len(own.attentions))
  tapped = own.project(params, tokens[:, :SHORT], positions[:, :SHORT])
  assert len(found) == len(tapped) == len(own.attentions) == 1 + (block == "gemma2")
  for full, part in zip(found, tapped, strict=True):
    for one, other in zip(full, part, strict=True):
      assert one.shape[2] == 1  # one head of keys for two of queries
      np.testing.assert_allclose(other, one[:, :SHORT], atol=1e-6)


@pytest.mark.parametrize("block", broad_but(["llama2"], BLOCKS, slow=ALIKE))
def test_reading_in_pieces_equals_one_window(block):
  """For x, u and the update, with both memories not empty and a short second row."""
  section, layer = section_with_queue(block)
  cell, chance = section.cell, np.random.default_rng(4)
  draw = lambda *shape: jnp.asarray(chance.normal(size=shape), jnp.float32)  # noqa: E731
  x, u = draw(2, WINDOW, 32), draw(2, SUMMARY, 32)
  memory = LayerMemory(draw(2, SHORT, 32), draw(2, 6, 32))
  positions = np.tile(np.arange(WINDOW, 2 * WINDOW, dtype=np.int32), (2, 1))
  ids = np.ones_like(positions)
  ids[1, 9:] = 0
  held = jnp.full((2,), 2, jnp.int32)
  valid = jnp.asarray(ids > 0)

  @jax.jit
  def window(layer):
    plan = plan_windows(
      jnp.asarray(positions), jnp.asarray(ids), held, window_length=WINDOW, queue_windows=3
    )
    fixed, state = cell.begin(layer, memory, plan)
    first = jax.tree.map(lambda leaf: leaf[0], plan)
    result = cell.window(layer, fixed, state, Streams(x, u), first, jnp.int32(0))
    y = jnp.where(valid[..., None], result.streams.x, 0)
    return y, result.streams.u, result.update[1:]

  @jax.jit
  def pieces(layer):
    recall, opened, parts = cell.recall(layer, memory, held), cell.open(2), []
    for first, last in ((0, 1), (1, 7), (7, WINDOW)):
      place = jnp.full((2,), first, jnp.int32)
      piece, own = x[:, first:last], valid[:, first:last]
      out, new = cell.context(layer, piece, place, own, recall, opened)
      opened = cell.append(opened, new, place, own)
      parts.append(out)
    y = jnp.where(valid[..., None], jnp.concatenate(parts, axis=1), 0)
    u_above, update = cell.close(layer, u, recall, opened)
    return y, u_above, update[1:]

  for found, expected in zip(*map(jax.tree.leaves, (pieces(layer), window(layer))), strict=True):
    np.testing.assert_allclose(found, expected, atol=2e-5 * max(1.0, np.abs(expected).max()))


# -- Gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", broad_but([], BLOCKS, slow=["llama2", "gemma3", *ALIKE]))
def test_every_parameter_of_memory_has_a_finite_gradient(block):
  """Over one segment that remembers the last; llama2 in the trainer is in graft_training_test."""
  model = models(block)[1]
  first, second = segments()
  _, state = readers(block)[1](random_state(block), *first)
  graphdef = nnx.graphdef(model)
  params, rest = nnx.split_state(state, nnx.Param, ...)

  @jax.jit
  def gradients(params, rest):
    def loss(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      logits = model(*second, enable_dropout=False)
      logits = logits[0] if isinstance(logits, tuple) else logits
      return -jax.nn.log_softmax(logits)[..., 1].mean()

    return jax.grad(loss)(params)

  flat = nnx.to_flat_state(gradients(params, rest))
  grads = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}
  last = model.config.num_decoder_layers - 1
  for name, grad in grads.items():
    assert np.isfinite(grad).all(), name
    if is_memory_parameter(name):
      for layer, part in stock_model.unscanned(name, grad).items():
        # The last layer's summary tokens go nowhere.
        unused = f"memory_layers_{last}/summary_mixer/" in layer
        assert part.any() != unused, layer
