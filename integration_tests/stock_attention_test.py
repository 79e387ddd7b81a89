"""Stock decoders with sinks and a sliding window, and Gated DeltaNets in rows of documents."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from integration_tests.saved_model import randomize
from melodi_plugin.cost.stock import stock_state

pytestmark = pytest.mark.slow

LENGTH = stock_model.SIZES["max_target_length"]
DELTA_NET = stock_model.MOE | {
  "decoder_block": "qwen3_next",
  "inhomogeneous_layer_cycle_interval": 2,
  "base_num_decoder_layers": 2,
  "base_mlp_dim": 64,
  "shared_experts": 1,
  "gdn_num_key_heads": 2,
  "gdn_num_value_heads": 4,
  "gdn_key_head_dim": 8,
  "gdn_value_head_dim": 8,
  "gdn_chunk_size": 16,  # two in a row
  "partial_rotary_factor": 0.5,
}
SINKS, WINDOW = 2, 5
# The second row: a document of three tokens, padding, one that fills the rest.
IDS = np.array([[1] * LENGTH, [1] * 3 + [0] * 5 + [2] * (LENGTH - 8)])
POSITIONS = np.array([range(LENGTH), [*range(3), *[0] * 5, *range(LENGTH - 8)]])


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


def make(**keys):
  """A tiny model whose layers are not scanned, with parameters that are far from their start."""
  from melodi_plugin.maxtext import loading

  sizes = running.TINY | stock_model.SIZES | {"scan_layers": False, "melodi_window_length": 4}
  model, _ = loading.new_model(running.initialize(**(sizes | keys)))
  randomize(model)
  return model


def tokens(seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 64, IDS.shape)


def read(model, text, ids=IDS, positions=POSITIONS) -> np.ndarray:
  """Logits where there is text."""
  text, ids, positions = (jnp.asarray(array, jnp.int32) for array in (text, ids, positions))
  return np.asarray(model(text, positions, decoder_segment_ids=ids))


def attention_with(mask: np.ndarray):
  """The core of a layer's attention, with a mask that was written down."""

  def attend(self, query, key, value, *unused, **more):
    repeats = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(array, repeats, axis=2) for array in (key, value))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key, precision="highest")
    weights = jax.nn.softmax(jnp.where(mask[:, None], logits, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, value, precision="highest")

  return attend


def written_mask(window: int, sinks: int) -> np.ndarray:
  mask = np.zeros((2, LENGTH, LENGTH), bool)
  for row, place, other in np.ndindex(mask.shape):
    near, sink = place - other < window, POSITIONS[row, other] < sinks
    same = IDS[row, place] == IDS[row, other]
    mask[row, place, other] = same and other <= place and (near or sink)
  return mask


@pytest.mark.parametrize("block", ["llama2", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe"])
def test_sinks_and_window_are_what_the_mask_says(block, monkeypatch):
  from maxtext.layers.attention_op import AttentionOp

  keys = {"decoder_block": block, **stock_model.BLOCKS[block]}
  model = make(**keys, melodi_sliding_window=WINDOW, melodi_sink_tokens=SINKS)
  found = read(model, tokens())
  masks = {"all": written_mask(LENGTH, 0), "own": written_mask(WINDOW, SINKS)}
  expected = {}
  for name, mask in masks.items():
    monkeypatch.setattr(AttentionOp, "__call__", attention_with(mask))
    expected[name] = read(model, tokens())
  text = IDS > 0
  np.testing.assert_allclose(found[text], expected["own"][text], atol=1e-5)
  assert np.abs(found[text] - expected["all"][text]).max() > 1e-2


def test_sinks_and_window_are_there_in_scanned_layers_too():
  def logits(**keys):
    return read(make(decoder_block="llama2", scan_layers=True, **keys), tokens())

  own = logits(melodi_sliding_window=WINDOW, melodi_sink_tokens=SINKS)
  np.testing.assert_allclose(logits(melodi_sliding_window=LENGTH), logits(), atol=1e-6)
  assert np.abs(own - logits())[IDS > 0].max() > 1e-2


@pytest.mark.parametrize("scan", [False, True], ids=["layer by layer", "scanned"])
def test_documents_of_a_row_are_apart_in_delta_nets(scan):
  model = make(**DELTA_NET, melodi_documents_in_rows=True, scan_layers=scan)
  text = tokens()
  packed = read(model, text)
  alone = np.zeros_like(text)
  alone[1, : LENGTH - 8] = text[1, 8:]
  ids = np.where(np.arange(LENGTH) < LENGTH - 8, 1, 0) * np.ones((2, 1), int)
  expected = read(model, alone, ids, np.arange(LENGTH) * ids)
  np.testing.assert_allclose(packed[1, 8:], expected[1, : LENGTH - 8], atol=1e-5)
  # MaxText's own lets the first document into the second.
  stock = read(make(**DELTA_NET, scan_layers=scan), text)
  np.testing.assert_allclose(stock[0], packed[0], atol=1e-5)  # one document
  assert np.abs(stock[1, 8:] - packed[1, 8:]).max() > 1e-3


def test_no_gradient_crosses_into_another_document_and_none_is_lost():
  model = make(**DELTA_NET, melodi_documents_in_rows=True, remat_policy="none")
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  places, ids = jnp.asarray(POSITIONS, jnp.int32), jnp.asarray(IDS, jnp.int32)

  def loss(params, text):
    logits = nnx.merge(graphdef, params, rest, copy=True)(text, places, decoder_segment_ids=ids)
    return (jax.nn.log_softmax(logits.astype(jnp.float32))[1, 8:, 0] ** 2).sum()

  text, other = jnp.asarray(tokens(), jnp.int32), jnp.asarray(tokens(1), jnp.int32)
  gradient = jax.jit(jax.grad(loss))
  begun = (text.at[1, :3].set(begin[1, :3]) for begin in (text, other))
  one, two = (nnx.to_pure_dict(gradient(params, tokens)) for tokens in begun)
  largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one))
  assert math.isfinite(largest) and largest > 1e-3
  for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(left, right, atol=1e-5 * largest)


def test_state_of_delta_nets_is_what_maxtext_keeps():
  from maxtext.utils import model_creation_utils

  sizes = running.TINY | stock_model.SIZES | {"scan_layers": False, "max_prefill_predict_length": 8}
  config = running.initialize(**(sizes | DELTA_NET | {"per_device_batch_size": 1}))
  build = model_creation_utils.get_nnx_create_model_fn(
    config, devices=jax.devices()[:1], model_mode="autoregressive"
  )
  cache = nnx.to_flat_state(nnx.state(nnx.eval_shape(build), nnx.Cache))
  kept = sum(
    leaf.get_value().size // leaf.get_value().shape[0]
    for path, leaf in cache
    if "layers_0" in path and path[-1] in ("cached_prefill_key", "cached_prefill_value")
  )
  pairs = 2 * config.num_kv_heads * config.head_dim * LENGTH
  assert stock_state(config) == kept + pairs  # one of two layers attends
