"""Distillation from the same weights with full attention, through MaxText's loss and trainer.

All of it: uv run pytest -m 'slow or not slow' integration_tests/distill_test.py
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from integration_tests.stock_model import WINDOW
from melodi_plugin.config.parameter_names import is_memory_parameter

LENGTH = 2 * WINDOW
WEIGHT, TEMPERATURE = 50.0, 2.0  # so much that the language model loss is little beside it
DISTILL = {"melodi_distill_weight": WEIGHT, "melodi_distill_temperature": TEMPERATURE}
FEW = {"base_num_decoder_layers": 2, "melodi_long_term_layers": "0", "vocab_size": 16}
CASES = {
  "scanned": ("llama2", {}),
  "unscanned, no remat": ("llama2", {"scan_layers": False, "remat_policy": "none"}),
  "local attention": ("gemma2", {}),
}


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@functools.cache
def models(case: str):
  """A random stock model, and one with memory that has its weights."""
  block, more = CASES[case]
  more = FEW | more
  stock = stock_model.build(stock_model.new_config(block, melodi=False, **more))
  stock_model.randomize(stock)
  grafted = stock_model.build(stock_model.new_config(block, **more | DISTILL))
  stock_model.randomize(grafted, seed=1)
  stock_model.copy_stock(stock, grafted)
  return stock, grafted


def batch() -> dict[str, jax.Array]:
  """Row 0: the middle of a document.  Row 1: the end of one, and one that begins behind padding."""
  chance = np.random.default_rng(2)
  positions = np.stack([1000 + np.arange(LENGTH), np.arange(LENGTH)]).astype(np.int32)
  ids = np.ones((2, LENGTH), np.int32)
  ids[1, 9:WINDOW], ids[1, WINDOW:] = 0, 2
  positions[1, WINDOW:] -= WINDOW
  targets = np.where(ids > 0, ids, 0)
  targets[0, -1] = 0  # nothing is to be predicted
  arrays = {
    "inputs": chance.integers(0, 16, ids.shape, np.int32),
    "inputs_position": positions,
    "inputs_segmentation": ids,
    "targets": chance.integers(0, 16, ids.shape, np.int32),
    "targets_segmentation": targets,
  }
  return {name: jnp.asarray(array) for name, array in arrays.items()}


COUNTED = [(0, token) for token in range(WINDOW, LENGTH - 1)]  # row 1 has no second window


@functools.cache
def teacher(case: str) -> np.ndarray:
  """Probabilities (T, V) of the stock model that reads row 0 at once, from position 0."""
  given = batch()
  positions = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (2, 1))
  stock = models(case)[0]
  read = stock_model.reader(stock)
  logits, _ = read(nnx.state(stock), given["inputs"], positions, given["inputs_segmentation"])
  weights = np.exp(np.asarray(logits[0], np.float64) / TEMPERATURE)
  return weights / weights.sum(-1, keepdims=True)


def slow(truth: np.ndarray, logits) -> jax.Array:
  """The mean divergence from fixed probabilities, token by token."""
  terms = []
  for row, token in COUNTED:
    q = jax.nn.softmax(logits[row, token] / TEMPERATURE)
    terms.append(jnp.sum(truth[token] * (np.log(truth[token]) - jnp.log(q))))
  return sum(terms) / len(terms)


def graded(case: str, loss, **changed):
  """Of (model, config) -> (loss, logged): both, and the gradients by name."""
  block, more = CASES[case]
  config = stock_model.new_config(block, **FEW | more | DISTILL | changed)
  graphdef, params, rest = nnx.split(models(case)[1], nnx.Param, ...)
  of = lambda params: loss(nnx.merge(graphdef, params, rest, copy=True), config)  # noqa: E731
  (value, logged), grads = jax.jit(jax.value_and_grad(of, has_aux=True))(params)
  return float(value), float(logged), stock_model.by_path(grads)


@functools.cache
def fast(case: str, **changed):
  """By MaxText's loss, with our seam in it."""
  from maxtext.trainers.pre_train import train

  def loss(model, config):
    value, aux = train.loss_fn(model, config, dict(batch()), None, None)
    return value, aux["mtp_loss"] / (WEIGHT * TEMPERATURE**2)  # what it adds to the loss

  return graded(case, loss, **changed)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_a_teacher_that_stays_as_it_is(case):
  from maxtext.trainers.pre_train import train

  probabilities = teacher(case)  # of a model of its own

  def loss(model, config):
    value, aux = train.loss_fn.__wrapped__(model, config, dict(batch()), None, None)
    logits = aux["intermediate_outputs"]["decoder"]["student_logits"]
    divergence = slow(probabilities, logits)
    return value + WEIGHT * TEMPERATURE**2 * divergence, divergence

  value, divergence, grads = fast(case)
  expected, truth, slopes = graded(case, loss)
  assert divergence == pytest.approx(truth, rel=1e-4) and WEIGHT * TEMPERATURE**2 * truth > 10
  assert value == pytest.approx(expected, rel=1e-5)
  for name, slope in slopes.items():
    found, slope = np.asarray(grads[name][...]), np.asarray(slope[...])
    assert np.abs(found - slope).max() <= 1e-4 * max(np.abs(slope).max(), 1e-2), name
  memory = [name for name in slopes if is_memory_parameter(name)]
  assert any(np.abs(slopes[name][...]).max() > 0.1 for name in memory)


@pytest.mark.slow
def test_all_best_tokens_are_all_tokens():
  value, divergence, grads = fast("scanned")
  other, other_divergence, other_grads = fast("scanned", melodi_distill_top_k=16)
  assert (value, divergence) == (other, other_divergence)
  for name, leaf in grads.items():
    np.testing.assert_array_equal(leaf[...], other_grads[name][...], err_msg=name)


def test_weight_zero_is_maxtexts_own_loss():
  """The same program, traced only: so whatever the numbers are."""
  from maxtext.trainers.pre_train import train
  from maxtext.utils import maxtext_utils, model_creation_utils

  def program(loss_fn, weight: float) -> str:
    config = stock_model.new_config("llama2", **FEW, melodi_distill_weight=weight)
    mesh = maxtext_utils.get_mesh_from_config(config, jax.devices()[:1])
    graphdef, state = nnx.split(model_creation_utils.create_nnx_abstract_model(config, mesh)[1])

    def loss(state):
      return loss_fn(nnx.merge(graphdef, state, copy=True), config, dict(batch()), None, None)[0]

    return str(jax.make_jaxpr(loss)(state))

  own = program(train.loss_fn.__wrapped__, 0.0)
  assert program(train.loss_fn, 0.0) == own
  assert len(program(train.loss_fn, 1.0)) > 1.2 * len(own)  # and the teacher's beside it


@pytest.mark.slow
def test_rows_see_what_the_step_draws():
  """All of the queue, as without a list; or some of it, and other rows other parts."""
  from maxtext.trainers.pre_train import train

  from melodi_plugin.maxtext.decoders.drawn import draw_hidden

  def loss(drawn: str, **changed):
    def of(model, config):
      value, aux = train.loss_fn(model, config, dict(batch()), None, None)
      return value, aux["total_weights"]

    own = {"melodi_distill_weight": 0.0, "melodi_long_term_windows_drawn": drawn}
    return graded("scanned", of, **own | changed)

  plain, _, grads = loss("")
  whole, _, same = loss("3")
  assert plain == whole
  for name, leaf in grads.items():
    np.testing.assert_array_equal(leaf[...], same[name][...], err_msg=name)
  assert loss("0")[0] != plain

  config = stock_model.new_config("llama2", melodi_long_term_windows_drawn="0,3")
  tokens = np.random.default_rng(0).integers(0, 64, (64, LENGTH), np.int32)
  hidden = np.asarray(draw_hidden(config, jnp.asarray(tokens)))
  assert set(hidden) == {0, 3} and 16 < (hidden == 0).sum() < 48
  np.testing.assert_array_equal(draw_hidden(config, jnp.asarray(tokens[5:])), hidden[5:])


@pytest.mark.slow
def test_divergence_falls_in_training_of_memory_alone(tmp_path):
  data = running.documents_config(tmp_path, [150, 300, 200, 170, 260, 180, 320, 190])
  keys = stock_model.keys("llama2", **FEW | data | DISTILL)
  keys |= {
    "base_output_directory": str(tmp_path),
    "per_device_batch_size": 1,
    "ici_fsdp_parallelism": 1,
    "learning_rate": 1e-2,
    "warmup_steps_fraction": 0.0,
    "steps": 8,
    "melodi_distill_weight": 10.0,
    "melodi_distill_top_k": 8,
    "melodi_scalar_learning_rate_multiplier": 20.0,
    "trainable_parameters_mask": ["decoder/memory_layers_", "decoder/summary_embeddings"],
  }
  trainer = running.Trainer(running.initialize(**keys), jax.devices()[:1])
  batch = trainer.loader.load_next_batch()
  trainer.loader.load_next_batch = lambda: batch  # documents begin in it
  metrics = [trainer.step() for _ in range(8)]
  divergences = [step["melodi/distill"] for step in metrics]
  for step, divergence in zip(metrics, divergences, strict=True):
    added = 10 * TEMPERATURE**2 * divergence
    assert step["learning/loss"] == pytest.approx(step["learning/lm_loss"] + added, rel=1e-5)
    assert step["learning/mtp_loss"] == 0
  assert all(map(math.isfinite, divergences)) and divergences[-1] < 0.7 * divergences[0]
