"""MaxText's engine, as it is, decodes models with memory: text and logits are those of `evaluate`.

Prompts are read in chunks that end in the middle of windows, go into slots between idle ones, and
are continued over several windows, each slot at its own place.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from integration_tests import running, stock_model
from integration_tests.engine_model import (
  CHUNK,
  SLOTS,
  WINDOW,
  Served,
  Text,
  assert_text_of_evaluate,
  config_of,
  new_model,
  noise_in_idle_slots,
  prompt_of,
  rows_of,
  serve,
)

# MaxText donates prompts of one row to slots of many, which cannot take their place.
pytestmark = pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")

STEPS = 3 * WINDOW + 2
# In two of the slots: one ends with its window, one in the middle of one.
PROMPTS = {1: 3 * WINDOW, 3: 77}
IDLE = [slot for slot in range(SLOTS) if slot not in PROMPTS]
# Four heads for four devices that share the work on every row, and two such groups.
SPREAD = {
  "ici_fsdp_parallelism": 1,
  "ici_tensor_parallelism": 4,
  "ici_data_parallelism": 2,
}
HEADS = {"base_num_query_heads": 4, "base_num_kv_heads": 4}
UNSCANNED = ("melodi unscanned", "llama2 unscanned", "gemma3 unscanned")
CASES = [
  "melodi",
  *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in (*UNSCANNED, *running.SYSTEMS, *stock_model.BLOCKS, "llama2 cached")
  ),
]


@pytest.fixture(autouse=True)
def registered():
  with running.maxtext_process():
    yield


@functools.cache
def served(case: str) -> Served:
  """On one device."""
  return serve(new_model(case), config_of(case, SLOTS), jax.devices()[:1])


def start(own: Served) -> tuple[Any, dict[int, Text]]:
  """The state of all slots after `PROMPTS`, and their texts."""
  state, texts = noise_in_idle_slots(own.engine.init_decode_state()), {}
  for slot, length in PROMPTS.items():
    state, texts[slot] = own.insert(prompt_of(length, slot), state, slot)
  return state, texts


# -- Text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_every_slot_says_what_evaluate_finds_most_likely(case):
  own = served(case)
  state, texts = start(own)
  before = rows_of(state)
  after = rows_of(own.generate(state, texts, STEPS))
  for text in texts.values():
    assert_text_of_evaluate(own, text)
    forgetful = own.logits(text, remembers=False)
    assert np.abs(forgetful - own.logits(text)).max() > 1e-2  # memory is read
  for name, leaf in after.items():
    assert (leaf[IDLE] == before[name][IDLE]).all(), name
  read = [length + STEPS for length in PROMPTS.values()]
  assert (after["held"] * WINDOW + after["count"])[list(PROMPTS)].tolist() == read


def test_a_slot_is_used_again_while_others_go_on():
  own = served("melodi")
  state, texts = start(own)
  going_on, finished = texts
  state = own.generate(state, texts, WINDOW + 3)
  state, texts[finished] = own.insert(prompt_of(30, seed=5), state, finished)
  own.generate(state, texts, WINDOW)
  for slot in (going_on, finished):
    assert_text_of_evaluate(own, texts[slot])


@pytest.mark.parametrize("chunked", [False, True])
def test_prompts_as_maxtext_passes_them_are_read_the_same(chunked):
  """In one piece behind padding, and in chunks of which each knows the tokens before it."""
  from maxtext.inference.maxengine.maxengine import ExistingPrefix

  own, prompt, known = served("melodi"), jnp.asarray(prompt_of(61)), None
  prefill = functools.partial(own.engine.prefill, params=own.params)
  first = 37 if chunked else 0
  if chunked:
    known, _ = prefill(padded_tokens=prompt[:first], true_length=first)
    known = ExistingPrefix(known["cache"], prompt[:first])
  padded = jnp.pad(prompt[first:], (0, 7))
  found, _ = prefill(existing_prefix=known, padded_tokens=padded, true_length=61 - first)
  expected = own.prefill(np.asarray(prompt))
  np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=1e-4)
  assert found["next_pos"] == 61
  for name, leaf in rows_of(expected).items():
    np.testing.assert_allclose(rows_of(found)[name], leaf, rtol=0, atol=1e-4, err_msg=name)


# -- Parameters ------------------------------------------------------------------------------------


def load_params(config: Any) -> Any:
  """The parameters that the engine of a config finds in its checkpoint."""
  from maxtext.inference.maxengine.maxengine import MaxEngine

  return MaxEngine(config, devices=jax.devices()[:1]).load_params()


@pytest.mark.slow
@pytest.mark.parametrize("other", ["layers", "memory"])
def test_only_a_whole_checkpoint_of_the_same_model_is_loaded(tmp_path, other):
  from melodi_plugin.maxtext import loading

  case = "llama2 unscanned"
  params = nnx.state(served(case).model, nnx.Param)
  folder = config_of(case, SLOTS, base_output_directory=str(tmp_path))
  whole = loading.write_params(folder, "whole", params)
  found = load_params(config_of(case, SLOTS, load_parameters_path=whole))
  for one, same in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
    assert (one == same).all()

  path, more, words = whole, {"base_num_decoder_layers": 4}, "holds another model"
  if other == "memory":
    stock = {name: leaf for name, leaf in params["decoder"].items() if "memory" not in name}
    del stock["summary_embeddings"]
    stock = nnx.State({**params, "decoder": stock})
    path, more, words = loading.write_params(folder, "stock", stock), {}, "holds a stock model"
  with pytest.raises(ValueError, match=words):
    load_params(config_of(case, SLOTS, load_parameters_path=path, **more))


# -- What the engine does with the state -----------------------------------------------------------


def test_one_prompt_in_many_slots():
  """`bulk_insert`, with the first tokens of `prefill_multisampling`."""
  own, prompt = served("melodi"), prompt_of(45, seed=6)
  prefix, _ = own.engine.prefill_multisampling(
    params=own.params, padded_tokens=jnp.pad(prompt, (0, 3)), true_length=45, num_samples=2
  )
  prefix["token_logp"] = jnp.zeros((2, 1))  # MaxText asks for it, and forgets it
  state, texts = start(own)
  state = own.engine.bulk_insert(prefix, state, IDLE)
  for slot in IDLE:
    texts[slot] = Text(prompt)
    texts[slot].say(prefix["tokens"][0, 0], prefix["logits"][0, 0])
  own.generate(state, texts, WINDOW)
  for text in texts.values():
    assert_text_of_evaluate(own, text)


def test_every_insert_copies_the_state_and_packed_prompts_are_refused():
  """A canary: what MaxText does with variables of the one name that we use."""
  own = served("melodi")
  prefix = own.prefill(prompt_of(40))
  expected, name = rows_of(prefix), "cache"
  packed = {key: leaf[None] for key, leaf in prefix.items() if key not in (name, "prompt_logp")}

  def insert_partial(state: Any, slots: list[int]) -> Any:
    places = jnp.asarray(slots, jnp.int32)
    return own.engine.insert_partial(
      jax.tree.map(jnp.copy, packed),
      state,
      prefix[name],
      places,
      start_indices=jnp.zeros_like(places),
      num_prompts=len(slots),
      seq_len=40,
    )

  with pytest.raises(NotImplementedError, match="Packed prefill is currently incompatible"):
    insert_partial(own.engine.init_decode_state(), [0, 2])
  partial = rows_of(insert_partial(own.engine.init_decode_state(), [2]))
  copied = jax.tree.map(jnp.copy, prefix)
  bulk = rows_of(own.engine.bulk_insert(copied, own.engine.init_decode_state(), [2]))
  one = rows_of(own.engine.insert(prefix, own.engine.init_decode_state(), 2))
  for found in (partial, bulk, one):
    for leaf, row in expected.items():
      assert (found[leaf][2] == row[0]).all(), leaf
      assert not found[leaf][[0, 1, 3]].any(), leaf


def test_prompts_of_all_lengths_share_two_programs():
  from maxtext.inference.maxengine.maxengine import MaxEngine

  own = served("melodi")
  own.prefill(prompt_of(2 * CHUNK))  # one of the first chunk, one of all others
  programs = MaxEngine._prefill_jit._cache_size()
  for length in (1, CHUNK - 1, 5 * CHUNK, 5 * CHUNK + 7):
    own.prefill(prompt_of(length))
  assert MaxEngine._prefill_jit._cache_size() == programs


@pytest.mark.slow
@pytest.mark.parametrize("case", ["melodi", "llama2 unscanned"])
def test_eight_devices_say_what_one_says(case):
  model = new_model(case, **HEADS)
  own = serve(model, config_of(case, SLOTS, devices=8, **SPREAD, **HEADS), jax.devices())
  state, texts = start(own)
  keys = state["cache"]["decoder"]["rows"]["recall_1_long_key"]["recurrent_state"]
  assert keys.sharding.shard_shape(keys.shape)[3] == 1  # of four heads
  own.generate(state, texts, STEPS)
  for text in texts.values():
    assert_text_of_evaluate(own, text)
