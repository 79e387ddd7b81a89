"""What decoding needs of the verbs besides the numbers: little work, no trace, the same bits."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.conformance.stacks import stack_layers
from melodi_plugin.core import decoding
from melodi_plugin.core.cell import KeyValues, OpenWindow
from melodi_plugin.core.memories.contents import Mixture
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.token_mixer import TokenMixer
from melodi_plugin.systems.table import empty_memory, make_cell
from melodi_plugin.testing.baselines import memorizing, random_layers, transformer_xl
from melodi_plugin.testing.products import counted
from melodi_plugin.testing.tiny import tiny_config

PAPER = MelodiConfig(
  num_layers=1,
  emb_dim=1024,
  num_heads=8,
  head_dim=128,
  mlp_dim=4096,
  window_length=512,
  summary_tokens=64,
  short_term_tokens=128,
  long_term_increment=64,
  long_term_windows=128,
  long_term_layers=(0,),
  short_term_layers=(0,),
)


def shapes_of(config, dtype=jnp.float32):
  """A cell, and the shapes of its parameters, memory, recall and update of one row."""
  cell = make_cell(config, config.layer(0), dtype)
  layer = jax.eval_shape(lambda: random_layers(config, dtype=dtype)[0])
  memory = jax.eval_shape(
    lambda: LayerMemory(*(jnp.zeros((1, *leaf.shape), dtype) for leaf in cell.stored))
  )
  held, u = jnp.ones(1, jnp.int32), jnp.zeros((1, config.summary_tokens, config.emb_dim), dtype)
  recall = jax.eval_shape(cell.recall, layer, memory, held)
  update = jax.eval_shape(
    lambda layer, recall: cell.close(layer, u, recall, cell.open(1))[1], layer, recall
  )
  return cell, layer, memory, recall, update


def projections(config, tokens):
  """Operations that make keys and values of tokens."""
  return 2 * 2 * tokens * config.emb_dim * config.num_heads * config.head_dim


@pytest.mark.parametrize("system", ["melodi", "memorizing"])
def test_write_projects_only_what_is_new(system):
  config = PAPER if system == "melodi" else memorizing(num_layers=1, memory_layers=(0,))
  cell, layer, memory, recall, update = shapes_of(config)
  held, writes = jnp.ones(1, jnp.int32), jnp.ones(1, bool)
  spec, melodi = cell.spec, system == "melodi"
  whole = counted(cell.recall, (layer, memory, held))
  increment = counted(
    lambda *arguments: cell.write(*arguments, held, writes), (layer, memory, recall, update)
  )
  # Tokens that are kept verbatim have the keys and values that they had in the window.
  new = spec.short_tokens + spec.increment if melodi else 0
  assert whole == projections(config, spec.short_tokens + spec.queue_tokens)
  assert increment == projections(config, new)
  if melodi:
    queue, added = (projections(config, n) for n in (spec.queue_tokens, spec.increment))
    assert (round(queue / 1e9, 1), round(added / 1e9, 2)) == (34.4, 0.27)


@pytest.mark.parametrize("system", ["melodi", "memorizing"])
def test_token_that_is_not_valid_leaves_every_bit(system):
  """Also behind the last place of a full window (of 8), and next to a row that reads."""
  if system == "melodi":
    config = tiny_config(num_layers=1, short_term_layers=(0,), long_term_layers=(0,))
  else:
    config = memorizing(2, num_layers=1, memory_layers=(0,), window_length=8)
  (layer,), cell = random_layers(config, dtype=jnp.float32), make_cell(config, config.layer(0))
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32)  # noqa: E731
  memory, x = LayerMemory(*(draw(*leaf.shape) for leaf in cell.stored)), draw(8, config.emb_dim)

  @jax.jit
  def read(layer, place):
    """Row 0 reads up to `place` and then rests; row 1 reads one token more."""
    recall = cell.recall(layer, memory, jnp.full(2, 2, jnp.int32))

    def window_with(opened, x, places, valid):
      _, new = cell.context(layer, x, places, valid, recall, opened)
      return cell.append(opened, new, places, valid)

    first = jnp.arange(8) < jnp.stack([place, jnp.int32(0)])[:, None]
    opened = window_with(cell.open(2), x, jnp.zeros(2, jnp.int32), first)
    valid = jnp.array([[False, False], [True, False]])
    return opened, window_with(opened, x[:, :2], jnp.stack([place, jnp.int32(5)]), valid)

  for place in (0, 3, 7, 8):
    opened, after = read(layer, jnp.int32(place))
    for old, new in zip(jax.tree.leaves(opened), jax.tree.leaves(after), strict=True):
      np.testing.assert_array_equal(new[0], old[0])
    assert after.tokens.visible[1].tolist() == [False] * 5 + [True] + [False] * 2


def test_mixtures_do_not_depend_on_the_pieces_in_which_a_window_was_read():
  """In bfloat16, where 512 additions one by one would lose what is small."""
  config = tiny_config(window_length=512)
  rng = np.random.default_rng(0)
  kernel = jnp.asarray(rng.uniform(0.5, 1.0, size=(512 + 4, 3)), jnp.float32)
  layer = SimpleNamespace(long_mixer=TokenMixer(kernel, jnp.zeros(3)))
  mixture = Mixture(config, "long_mixer", 3, False, jnp.bfloat16)
  x = jnp.asarray(rng.uniform(0.5, 1.0, size=(1, 512, config.emb_dim)), jnp.bfloat16)
  heads = jnp.zeros((1, 512, 1, 1), jnp.bfloat16)
  tokens = KeyValues(heads, heads, jnp.ones((1, 512), bool))
  u = jnp.zeros((1, 4, config.emb_dim), jnp.bfloat16)
  mixed = mixture.close(layer, u, OpenWindow(tokens, x[:, :0], x))
  exact = np.einsum(
    "to,Btd->Bod", np.asarray(kernel[:512].astype(jnp.bfloat16), "f8"), np.asarray(x, "f8")
  )
  assert mixed.dtype == jnp.bfloat16
  assert np.abs(np.asarray(mixed, "f8") / exact - 1).max() < 2**-8


@pytest.mark.parametrize("system", ["melodi", "xl"])
def test_prefixes_that_were_read_in_pieces_are_the_same_bit_for_bit(system):
  """Float32: what is read in frames of a window does not depend on where a call ends."""
  if system == "melodi":
    config = tiny_config(num_layers=2, short_term_layers=(0, 1), long_term_layers=(1,))
  else:
    config = transformer_xl()
  layers, window = random_layers(config, dtype=jnp.float32), config.window_length
  sections = stack_layers(layers, config)
  rng = np.random.default_rng(0)
  summary = jnp.asarray(rng.normal(size=(config.summary_tokens, config.emb_dim)), jnp.float32)
  length = 3 * window + 5
  x = jnp.asarray(rng.normal(size=(1, length, config.emb_dim)), jnp.float32)
  empty = jax.jit(lambda: decoding.begin(sections, empty_memory(config, 1)))()

  @jax.jit
  def read(rows, first, count):
    tokens = jnp.roll(x, -first, axis=1)
    valid = jnp.arange(length)[None] < count
    return decoding.read(sections, rows, tokens, valid, summary)[1]

  whole = read(empty, 0, length)
  for cut in (1, window - 1, window, window + 1, 2 * window + 3, length - 1):
    rows = read(read(empty, 0, cut), cut, length - cut)
    jax.tree.map(np.testing.assert_array_equal, rows, whole)
