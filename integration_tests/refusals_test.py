"""Settings that would silently break memory are refused, in a sentence, and only for MELODI."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from maxtext.configs.types import RematPolicy
from maxtext.layers.nnx_decoders import NNXDecoder

from integration_tests import running
from integration_tests.refusal_cases import (
  AROUND_CASES,
  CASES,
  SERVING_CASES,
  STOCK_CASES,
  SYSTEM_CASES,
  WINDOW_CASES,
  refusal,
)
from melodi_plugin.maxtext.decoders.stock_refusals import NEEDS_MEMORY, STOCK_ROWS, STOCK_WINDOW
from melodi_plugin.maxtext.refusals.blocks import PAPER_BLOCK, SERVING, STOCK_BLOCK
from melodi_plugin.maxtext.refusals.every_block import EVERY_BLOCK
from melodi_plugin.maxtext.refusals.remat import CUSTOM, POLICIES
from melodi_plugin.maxtext.steps import remat_named

WITHOUT_MEMORY = STOCK_WINDOW + NEEDS_MEMORY
# MaxText's post-training commands read these, without setting use_sft or use_dpo in all of them.
POST_TRAINING = ("sft", "dpo", "rl", "distillation")
PRE_TRAINING = running.TINY | {"eval_interval": -1, "model_name": "default"}

each_case = pytest.mark.parametrize(
  "settings, words", CASES, ids=[",".join(settings) for settings, _ in CASES]
)


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@each_case
def test_setting_is_refused_in_one_sentence_that_names_it(settings, words):
  message = refusal(running.melodi_config, **settings)
  assert words in message
  assert message.startswith("decoder_block: melodi")
  assert "\n" not in message and message.endswith(".")
  # Values are written as in a config file, not as Python objects.
  assert "{" not in message and "Type." not in message


@pytest.mark.slow
@each_case
def test_setting_is_not_refused_without_melodi(settings, words):
  # Sinks are for a stock decoder what stays visible beside a sliding window.
  window = {"melodi_sliding_window": 8} if "melodi_sink_tokens" in settings else {}
  running.initialize(decoder_block="llama2", **settings, **window)


@pytest.mark.parametrize(
  "settings, words", [*SYSTEM_CASES, ({"decoder_block": "transformer_xl", "packing": True}, "anew")]
)
def test_other_systems_are_refused_under_their_own_name(settings, words):
  message = refusal(running.initialize, **settings, melodi_window_length=16)
  assert words in message
  assert message.startswith(f"decoder_block: {settings['decoder_block']} cannot run: ")


def test_every_refusal_has_a_case():
  cases = CASES + AROUND_CASES + SYSTEM_CASES + SERVING_CASES + STOCK_CASES + WINDOW_CASES
  known = [words for _, words in cases]
  unknown = [
    r.sentence
    for r in EVERY_BLOCK + PAPER_BLOCK + STOCK_BLOCK + SERVING + STOCK_ROWS + WITHOUT_MEMORY
    if not any(words in r.sentence for words in known)
  ]
  assert not unknown


def test_remat_policies_are_those_of_maxtext():
  source = inspect.getsource(NNXDecoder.get_remat_policy)
  known = re.findall(r"remat_policy (?:==|in) (.*):", source)
  assert set(re.findall(r'"(\w+)"', " ".join(known))) == {CUSTOM, *POLICIES} - {"none", "full"}
  assert {policy.value for policy in RematPolicy} <= {CUSTOM, *POLICIES}
  for name in POLICIES:
    if "quantization" not in name:  # of which MaxText warns
      assert remat_named(name)
  with pytest.raises(ValueError, match="most is no remat policy"):
    remat_named("most")


@pytest.mark.parametrize("where", ["file", "command line"])
def test_model_name_is_refused_where_it_would_undo_the_papers_layers(tmp_path, where):
  named = {"model_name": "llama2-7b"}
  keys = {"decoder_block": "melodi"} | (named if where == "file" else {})
  file = running.write_yaml(tmp_path / "own.yml", **keys)
  with pytest.raises(ValueError, match="brings layers of its own") as error:
    running.from_yaml(file, **({} if where == "file" else named))
  assert str(error.value) == (
    "model_name=llama2-7b brings layers of its own, so decoder_block=melodi would be lost; set "
    "melodi_base_block to the decoder_block of that model, or leave model_name out."
  )


def test_settings_of_a_sentence_are_those_of_the_config():
  message = refusal(running.melodi_config, max_target_length=72)
  assert "max_target_length=72" in message and "melodi_window_length=16" in message
  assert "quantization=int8" in refusal(running.melodi_config, quantization="int8")
  keys = {"eval_interval": 3, "compiled_trainstep_file": "step.pickle"}
  assert "eval_interval=3" in refusal(running.melodi_config, **keys)


@pytest.mark.parametrize("name", POST_TRAINING)
def test_post_training_is_refused(name):
  message = refusal(post_training_config, name=name, **running.MELODI)
  assert "MaxText's post-training" in message


@pytest.mark.parametrize("name", POST_TRAINING)
def test_post_training_is_not_refused_without_melodi(name):
  post_training_config(name, decoder_block="llama2")


def post_training_config(name: str, **keys):
  """The config that MaxText's command for `name` makes, of a tiny model."""
  from maxtext.configs import pyconfig, types

  file = pathlib.Path(pyconfig.__file__).parent / "post_train" / f"{name}.yml"
  return pyconfig.initialize(
    ["", str(file)],
    config_class=types.RLConfig if name == "rl" else types.MaxTextConfig,
    override_model_config=True,
    **(PRE_TRAINING | keys),
  )


def model_of(mode: str, **keys) -> nnx.Module:
  """The tiny model as MaxText's engine makes it, without its arrays."""
  from maxtext.utils import model_creation_utils

  config, devices = running.melodi_config(**keys), jax.devices()[:1]
  make = model_creation_utils.get_nnx_create_model_fn(config, devices=devices, model_mode=mode)
  return nnx.eval_shape(make)


@pytest.mark.parametrize(
  "settings, words", SERVING_CASES, ids=[",".join(settings) for settings, _ in SERVING_CASES]
)
@pytest.mark.parametrize("mode", ["prefill", "autoregressive"])
def test_setting_is_refused_in_modes_of_inference_only(mode, settings, words):
  message = refusal(model_of, mode=mode, **settings)
  assert message.startswith("decoder_block: melodi cannot run: ") and words in message
  assert "\n" not in message and message.endswith(".") and "{" not in message
  model_of("train", **settings)


def test_model_of_one_mode_is_refused_in_another():
  from maxtext.utils import model_creation_utils

  config, devices = running.melodi_config(), jax.devices()[:1]
  model = model_creation_utils.from_config(config, devices=devices, rngs=nnx.Rngs(0))
  tokens = jnp.zeros((8, 1), jnp.int32)
  with pytest.raises(ValueError) as error:
    model(tokens, tokens, model_mode="autoregressive")
  assert str(error.value) == (
    "decoder_block: melodi was made for MaxText's 'train' mode and cannot run in 'autoregressive', "
    "for which it has no state; make the model with model_mode='autoregressive'."
  )
