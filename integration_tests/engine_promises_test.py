"""What the engine promises besides its numbers: seeds, no compiles, errors, and no second model."""

import gc
import logging
import weakref
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from integration_tests import running, stock_model
from integration_tests.decoding_models import (
  READ_TOKENS,
  WINDOW,
  document,
  force,
  make,
  read_in_pieces,
  short_calls,
)
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.serving import programs
from melodi_plugin.serving.engine import Engine
from melodi_plugin.serving.sampling_settings import SamplingSettings

SLOTS = 4


@pytest.fixture(scope="module")
def model():
  with running.maxtext_process(), short_calls():
    yield make("melodi")


@pytest.fixture(scope="module")
def engine(model):
  return Engine(model.prepared, SLOTS)


# -- The same seed ---------------------------------------------------------------------------------

SETTINGS = SamplingSettings(seed=3, temperature=1.5, top_p=0.9, frequency_penalty=0.5)


def write(engine: Engine, slot: int, others: tuple[int, ...] = (), length: int = 30) -> list[int]:
  """Text of a slot, while others read and write."""
  engine.begin(slot)
  engine.read_all({slot: document(1)})
  engine.sample_with(slot, SETTINGS)
  for other in others:
    engine.begin(other)
    engine.read_all({other: document(other, WINDOW * other + 5)})
    engine.sample_with(other, SamplingSettings(temperature=2, seed=other))
  text = [7]
  for place in range(length):
    now = [other for other in others if (place + other) % 3]
    pending = dict.fromkeys(now, place % 5) | {slot: text[-1]}
    text.append(engine.generate(pending)[slot].token)
    if others:
      engine.read({others[0]: document(place, place % READ_TOKENS)})
  return text


def test_same_seed_writes_the_same_text_whatever_other_slots_do(engine):
  alone = write(engine, 1)
  assert len(set(alone)) > 5
  assert write(engine, 1, others=(3, 0, 2)) == alone
  assert write(engine, 2, others=(1,)) == alone
  engine.sample_with(2, SamplingSettings(seed=4))
  assert write(engine, 0) == alone


@pytest.mark.slow
def test_same_seed_writes_the_same_text_however_many_slots_there_are(model, engine):
  with (
    mock.patch.object(programs, "READ_ROWS", (1,)),
    mock.patch.object(programs, "CLOSE_ROWS", (1,)),
  ):
    single = Engine(model.prepared, 1)
  assert write(single, 0) == write(engine, 3, others=(2, 0))


# -- Compiles --------------------------------------------------------------------------------------


def test_nothing_compiles_after_the_start(engine, caplog):
  """For prompts of every length up to five calls, alone and with others, and every other call."""
  compiled = []

  def calls() -> None:
    for length in range(1, 5 * READ_TOKENS + 1):
      slot = length % SLOTS
      engine.begin(slot)
      engine.read_all({slot: document(length, length)})
      engine.generate({slot: 0})
    texts = {slot: document(slot, 9 * slot + 1) for slot in range(SLOTS)}
    read_in_pieces(engine, texts, seed=0)
    force(engine, texts)
    engine.sample_with(1, SETTINGS)
    engine.insert(0, engine.extract(1))
    engine.copy(1, 2)
    engine.close(range(SLOTS))
    engine.reset()

  with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
    calls()
    compiled = [record for record in caplog.records if "ompil" in record.getMessage()]
    jax.jit(lambda x: x + 1)(np.float32(len(compiled)))
    after = [record for record in caplog.records if "ompil" in record.getMessage()]
  assert not compiled
  assert after  # the log does tell
  assert engine.programs.compiles == 8


def test_wrong_shape_is_an_error_and_changes_nothing(engine):
  engine.begin(0)
  engine.read({0: document(0, 5)})
  before = engine.extract(0)
  with pytest.raises(ValueError, match="reads up to 24 tokens"):
    engine.read({0: document(0, READ_TOKENS + 1)})
  with pytest.raises(ValueError, match="room for 3 slots"):
    engine.read({slot: document(0, 1) for slot in range(SLOTS)})
  wider = jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=-1), before.state)
  with pytest.raises(TypeError, match="float32"):
    engine.insert(1, before._replace(state=wider))
  assert engine.slots[0].tokens == 5
  after = engine.extract(0)
  for own, other in zip(jax.tree.leaves(after.state), jax.tree.leaves(before.state), strict=True):
    np.testing.assert_array_equal(own, other)


# -- Faults ----------------------------------------------------------------------------------------


def test_parameters_that_are_not_finite_mark_what_is_drawn(engine):
  broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), engine.model.weights)
  engine.reset()
  with mock.patch.object(engine.model, "weights", broken):
    assert not engine.generate({2: 1})[2].finite
  engine.reset()
  drawn = engine.generate({2: 1})[2]
  assert drawn.finite and np.isfinite(drawn.logprob)


def test_slot_that_is_broken_leaves_the_others_alone(engine):
  """What one slot has read is not finite: the others say what they would have said."""
  engine.reset()
  engine.read({0: document(0, 5), 1: document(1, 5)})
  row = engine.extract(1)
  alone = engine.generate({0: 3})[0].logprob
  engine.begin(0)
  engine.read({0: document(0, 5)})
  nothing = jax.tree.map(
    lambda leaf: np.full_like(leaf, np.nan) if leaf.dtype == np.float32 else leaf, row.state
  )
  engine.insert(1, row._replace(state=nothing))
  drawn = engine.generate({0: 3, 1: 3})
  assert drawn[0].finite and not drawn[1].finite
  assert drawn[0].logprob == alone
  engine.begin(1)
  assert engine.generate({1: 1})[1].finite


# -- Other numbers ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_bfloat16_is_as_near_to_float32_as_evaluate_is(model):
  half, text = make("melodi", dtype="bfloat16"), document(1)
  exact = model.logprobs(text)
  said = force(Engine(half.prepared, SLOTS), {0: text})[0]
  error, usual = (
    float(np.sqrt(np.mean((found - exact) ** 2))) for found in (said, half.logprobs(text))
  )
  print(f"root mean square error in bfloat16: {error:.4f}, of evaluate {usual:.4f}")
  assert 0.001 < error < 1.5 * usual


# -- Memory of the machine -------------------------------------------------------------------------


def test_prepared_model_keeps_no_second_copy_of_its_layers(model):
  """Of the parameters of the checkpoint it keeps the two ends of the model, and nothing else."""
  loaded = jax.tree.map(jnp.copy, model.loaded)
  given = {
    name: weakref.ref(leaf[...]) for name, leaf in stock_model.by_path(loaded.params).items()
  }
  prepared = PreparedModel(model.prepared.config, loaded, model.prepared.mesh)
  del loaded
  gc.collect()
  kept = {name for name, leaf in given.items() if leaf() is not None}
  assert kept == {name for name in given if not name.startswith("decoder/layers")}
  assert len(given) > 2 * len(kept)
  assert jax.tree.leaves(prepared.weights.layers)
