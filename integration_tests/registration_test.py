"""register() and unregister(): nothing at import, twice is harmless, no trace, stock as before."""

import inspect
import os
import subprocess
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import melodi_plugin
from integration_tests import running
from integration_tests.attributes import (
  CHANGED,
  differences,
  settled_snapshot,
  snapshot,
  stock_maxtext,
)
from melodi_plugin.maxtext.registration import register, unregister


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
  with stock_maxtext(monkeypatch):
    yield


# -- Nothing by itself -----------------------------------------------------------------------------


def test_importing_the_plugin_imports_neither_maxtext_nor_jax():
  script = (
    "import sys, melodi_plugin\n"
    "found = {name.partition('.')[0] for name in sys.modules}\n"
    "heavy = found & {'maxtext', 'jax', 'flax', 'orbax', 'grain'}\n"
    "assert not heavy, heavy"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=running.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_registering_changes_exactly_these_attributes_and_unregistering_restores_them():
  before = settled_snapshot()
  register()
  during = snapshot()
  assert differences(before, during) == CHANGED
  unregister()
  assert not differences(before, snapshot())


def test_unregistered_maxtext_holds_no_code_of_the_plugin():
  register()
  unregister()
  ours = os.path.dirname(melodi_plugin.__file__)  # not the name: a clone may be called so too
  functions = {key: value for key, value in snapshot().items() if inspect.isfunction(value)}
  assert ("maxtext.configs.pyconfig", "_load_config") in functions
  for key, function in functions.items():
    assert not function.__code__.co_filename.startswith(ours), key


def test_registering_twice_is_registering_once():
  before = settled_snapshot()
  register()
  once = snapshot()
  register()
  assert not differences(once, snapshot())
  unregister()
  assert not differences(before, snapshot())


def test_unregistering_twice_or_first_is_harmless():
  before = settled_snapshot()
  unregister()
  register()
  unregister()
  unregister()
  assert not differences(before, snapshot())


def test_block_exists_only_while_registered():
  with pytest.raises(ValueError, match="melodi"):
    running.initialize(decoder_block="melodi")
  for _ in range(2):
    register()
    assert running.melodi_config().decoder_block.value == "melodi"
    unregister()
  with pytest.raises(ValueError, match="melodi"):
    running.initialize(decoder_block="melodi")
  with pytest.raises(ValueError, match="'melodi_window_length' not in"):
    running.initialize(melodi_window_length=16)


def test_configs_after_registering_again_name_the_block_of_that_registration():
  from maxtext.common.common_types import DecoderBlockType

  for _ in range(2):
    register()
    assert running.melodi_config().decoder_block is DecoderBlockType.MELODI
    unregister()


def test_public_names_are_there():
  assert {"register", "unregister", "UnsupportedMaxText"} <= set(melodi_plugin.__all__)
  assert all(hasattr(melodi_plugin, name) for name in melodi_plugin.__all__)


# -- Where JetStream is absent ---------------------------------------------------------------------


def new_results() -> Any:
  """What MaxText's engine makes of a step, as it leaves a compiled function."""
  from maxtext.inference.maxengine import maxengine

  return jax.jit(
    lambda: maxengine.engine_api.ResultTokens(
      data=jnp.ones((1, 3)),
      tokens_idx=(0, 1),
      valid_idx=(1, 2),
      length_idx=(2, 3),
      log_prob=jnp.zeros((1, 1)),
      samples_per_slot=1,
    )
  )()


def test_results_of_a_step_leave_a_compiled_function_only_while_registered():
  from maxtext.common import gcloud_stub
  from maxtext.inference.maxengine import maxengine

  stub = maxengine.engine_api.ResultTokens
  register()
  found = new_results()
  assert isinstance(found, stub)
  assert found.data.shape == (1, 3) and found.log_prob.shape == (1, 1)
  assert (found.tokens_idx, found.samples_per_slot) == ((0, 1), 1)
  later = gcloud_stub.jetstream()[1]  # an engine that is imported later
  assert jax.tree.leaves(later.ResultTokens(data=1, log_prob=2)) == [1, 2]
  unregister()
  assert maxengine.engine_api.ResultTokens is stub
  assert len(jax.tree.leaves(later.ResultTokens(data=1, log_prob=2))) == 1
  with pytest.raises(TypeError, match="ResultTokens"):
    new_results()


def test_jetstream_is_left_alone(monkeypatch):
  from maxtext.inference.maxengine import maxengine

  real = types.SimpleNamespace(ResultTokens=type("ResultTokens", (), {}), _IS_STUB=False)
  monkeypatch.setattr(maxengine, "engine_api", real)
  before = dict(vars(real))
  register()
  assert vars(real) == before


# -- Stock MaxText next to the plugin --------------------------------------------------------------


def stock_logits():
  """The class of a llama2 decoder, and logits of the model."""
  from maxtext.utils import model_creation_utils

  config = running.initialize(decoder_block="llama2")
  model = model_creation_utils.from_config(config, devices=jax.devices()[:1], rngs=nnx.Rngs(0))
  tokens = jnp.arange(8 * 64, dtype=jnp.int32).reshape(8, 64) % 64
  positions = jnp.broadcast_to(jnp.arange(64, dtype=jnp.int32), (8, 64))
  logits = model(tokens, positions, jnp.ones_like(tokens), enable_dropout=False)
  return type(model.decoder), np.asarray(logits)


def test_stock_model_is_the_same_with_the_plugin():
  plain_class, plain = stock_logits()
  register()
  ours_class, ours = stock_logits()
  assert ours_class is plain_class
  assert np.isfinite(ours).all() and ours.std() > 0
  np.testing.assert_array_equal(ours, plain)


def test_stock_config_is_the_same_with_the_plugin_but_for_our_keys():
  keys = {"decoder_block": "llama2", "base_output_directory": "relative"}
  plain = running.initialize(**keys).get_keys()
  register()
  ours = dict(running.initialize(**keys).get_keys())
  added = {key: ours.pop(key) for key in melodi_plugin.MelodiKeys.model_fields}
  assert added == melodi_plugin.MelodiKeys().model_dump()
  assert ours == plain


def test_unknown_key_is_still_refused_with_the_plugin():
  register()
  with pytest.raises(ValueError, match="'no_such_key' not in"):
    running.initialize(decoder_block="llama2", no_such_key=1)


@pytest.mark.parametrize("raised", [ValueError, OSError, RuntimeError, StopIteration])
def test_error_while_loading_ends_stock_training_as_before_but_melodi_training_with_failure(raised):
  from maxtext.common import data_loader
  from maxtext.utils.exceptions import StopTraining

  register()
  stock = running.initialize(decoder_block="llama2")
  with pytest.raises(StopTraining), data_loader.loader_exception_guard(stock):
    raise raised("while loading")
  # MaxText exits with success after StopTraining, which is right only at the end of the data.
  expected = StopTraining if raised is StopIteration else raised
  with pytest.raises(expected), data_loader.loader_exception_guard(running.melodi_config()):
    raise raised("while loading")
