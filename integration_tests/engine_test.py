"""The engine says what `evaluate` says: however a text is cut, in any slot, wherever it moves.

What else it promises is in engine_promises_test.
"""

import math

import jax
import numpy as np
import pytest

from integration_tests import own_system, running, stock_model
from integration_tests.decoding_models import (
  KEYS,
  LONG,
  NEAR,
  READ_TOKENS,
  SIZES,
  VOCABULARY,
  WINDOW,
  assert_same_bits,
  bits,
  document,
  force,
  make,
  read_in_pieces,
  score,
  short_calls,
)
from melodi_plugin.maxtext import loading
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.serving.engine import Engine
from melodi_plugin.testing.cases import broad_but

SLOTS = 4
MESH = {"ici_fsdp_parallelism": 4, "ici_tensor_parallelism": 2}


# The example's memory is a quotient of sums, which makes rounding grow with every window: measured
# 1e-5 in the first, 4e-4 after six, 6e-3 after eleven.  So its texts are compared up to
# six windows.
GROWING = {"armt": (6 * WINDOW, 1e-3)}


@pytest.fixture(scope="module", autouse=True)
def registered():
  with running.maxtext_process(), own_system.forgotten(), short_calls():
    yield


@pytest.fixture(
  scope="module",
  params=broad_but(["melodi"], KEYS, slow=[n for n in KEYS if n not in ("melodi", "llama2")]),
)
def model(request):
  return make(request.param)


@pytest.fixture(scope="module")
def engine(model):
  return Engine(model.prepared, SLOTS, scores=True)


def test_every_split_of_a_text_is_read_as_evaluate_reads_it(model, engine):
  """Slots at different places: pieces by `read`, then `score`, then a window and more by steps."""
  text = document(0)
  expected = model.logprobs(text)
  model.assert_remembers(text)
  for first in range(-(-LONG // SLOTS)):
    splits = {slot: min(first + slot * LONG // SLOTS, LONG - 1) for slot in range(SLOTS)}
    behind = {
      slot: min(split + 1 + 7 * split % READ_TOKENS, LONG) for slot, split in splits.items()
    }
    for slot in splits:
      engine.begin(slot)
    read_in_pieces(engine, {slot: text[:split] for slot, split in splits.items()}, seed=first)
    for slots in ([0], [3, 1, 2]):
      found = score(engine, {slot: text[splits[slot] : behind[slot]] for slot in slots})
      for slot, own in found.items():
        np.testing.assert_allclose(own, expected[splits[slot] : behind[slot]], atol=NEAR)
    ends = {slot: place + WINDOW + 1 for slot, place in behind.items()}
    said = force(engine, {slot: text[behind[slot] : ends[slot]] for slot in splits})
    for slot, own in said.items():
      np.testing.assert_allclose(own, expected[behind[slot] : ends[slot]], atol=NEAR)


@pytest.mark.parametrize("length", [0, 1, WINDOW, 2 * WINDOW, READ_TOKENS, 3 * READ_TOKENS + 1])
def test_text_of_any_length_is_read_in_one_go(model, engine, length):
  text = document(5, length + 1)
  engine.begin(2)
  engine.read_all({2: text[:-1]})
  assert engine.slots[2].tokens == length
  said = force(engine, {2: text[-1:]})[2]
  np.testing.assert_allclose(said, model.logprobs(text)[-1:], atol=NEAR)


def test_greedy_text_is_the_argmax_of_evaluate(model, engine):
  """Over several windows, from prompts of different lengths."""
  texts = {0: document(6, 1), 1: document(7, WINDOW), 3: document(8, LONG)}
  prompts = {slot: len(text) for slot, text in texts.items()}
  for slot, text in texts.items():
    engine.begin(slot)
    engine.read_all({slot: text[:-1]})
  for _ in range(4 * WINDOW):
    drawn = engine.generate({slot: int(text[-1]) for slot, text in texts.items()})
    texts = {slot: np.append(text, np.int32(drawn[slot].token)) for slot, text in texts.items()}
  for slot, text in texts.items():
    best = model.logprobs(text[:-1]).argmax(axis=1)[prompts[slot] - 1 :]
    assert text[prompts[slot] :].tolist() == best.tolist()
    assert len(set(best.tolist())) > 1


# -- Slots and states ------------------------------------------------------------------------------


def test_slots_that_idle_keep_every_bit(engine):
  """One in mid-window, and one with a full window that nobody closes."""
  for slot, length in {0: WINDOW + 3, 3: 2 * WINDOW}.items():
    engine.begin(slot)
    engine.read_all({slot: document(slot, length)})
  before = {slot: bits(engine, slot) for slot in (0, 3)}
  for slot in (1, 2):
    engine.begin(slot)
  engine.read({1: document(1, READ_TOKENS), 2: document(2, 5)})
  score(engine, {2: document(2, READ_TOKENS)})
  force(engine, {1: document(1, 2 * WINDOW), 2: document(3, WINDOW)})
  engine.copy(1, 2)
  engine.insert(1, engine.extract(2))
  for slot, old in before.items():
    assert_same_bits(bits(engine, slot), old)
  assert_same_bits(bits(engine, 1), bits(engine, 2))


def test_state_that_moves_goes_on_as_if_it_never_had(engine):
  """Out of a slot and into another one, or copied, at 20 random places: the very same numbers."""
  chance = np.random.default_rng(9)
  for place in chance.permutation(np.arange(1, LONG - 1))[:20]:
    text = document(int(place))
    engine.begin(0)
    engine.read_all({0: text[:place]})
    row = engine.extract(0)
    never = bits_and_words(engine, 0, text[place:])
    engine.begin(2)
    engine.read_all({2: document(99, 11)})  # something else was there
    engine.insert(2, row)
    moved = bits_and_words(engine, 2, text[place:])
    engine.insert(1, row)
    engine.copy(1, 3)
    copied = bits_and_words(engine, 3, text[place:])
    assert_same_bits(moved, never)
    assert_same_bits(copied, never)


def bits_and_words(engine: Engine, slot: int, text: np.ndarray) -> list[np.ndarray]:
  """What a slot says while it reads on, and the state that it ends in."""
  said = force(engine, {slot: text})[slot]
  return [said, *bits(engine, slot)]


def test_any_schedule_of_calls_equals_lists_of_tokens(request, model, engine):
  """300 random calls; what a slot has read is a list of tokens, and `evaluate` knows the rest."""
  chance = np.random.default_rng(10)
  read: dict[int, list[int]] = {slot: [] for slot in range(SLOTS)}
  for slot in read:
    engine.begin(slot)
  kept, checks = [], {}

  def tokens(count: int) -> np.ndarray:
    return chance.integers(0, VOCABULARY, count, np.int32)

  def some(most: int) -> list[int]:
    return chance.permutation(SLOTS)[: chance.integers(1, most + 1)].tolist()

  def check(slot: int, found: np.ndarray) -> None:
    for back, own in enumerate(found[::-1]):
      checks[tuple(read[slot][: len(read[slot]) - back])] = own

  for _ in range(300):
    slot, to = some(SLOTS)[0], some(SLOTS)[0]
    match chance.choice(
      ["begin", "read", "score", "generate", "extract", "insert", "copy", "close"]
    ):
      case "begin":
        engine.begin(slot)
        read[slot] = []
      case "read":
        texts = {slot: tokens(chance.integers(0, READ_TOKENS + 1)) for slot in some(3)}
        engine.read(texts)
        for slot, text in texts.items():
          read[slot] += text.tolist()
      case "score":
        texts = {slot: tokens(chance.integers(1, READ_TOKENS + 1)) for slot in some(3)}
        for slot, found in score(engine, texts).items():
          read[slot] += texts[slot].tolist()
          check(slot, found)
      case "generate":
        texts = {slot: tokens(chance.integers(1, 2 * WINDOW)) for slot in some(SLOTS)}
        for slot, found in force(engine, texts).items():
          read[slot] += texts[slot].tolist()
          check(slot, found)
      case "extract":
        kept.append((engine.extract(slot), list(read[slot])))
      case "insert" if kept:
        row, own = kept[chance.integers(len(kept))]
        engine.insert(slot, row)
        read[slot] = list(own)
      case "copy" if slot != to:
        engine.copy(slot, to)
        read[to] = list(read[slot])
      case "close":
        engine.close(some(SLOTS))
    assert [own.tokens for own in engine.slots] == [len(own) for own in read.values()]
  assert len(checks) > 1000
  known: dict[tuple[int, ...], np.ndarray] = {}
  longest, near = GROWING.get(request.node.callspec.params["model"], (math.inf, NEAR))
  for text in sorted((text for text in checks if len(text) <= longest), key=len, reverse=True):
    if text not in known:
      said = model.logprobs(np.array(text, np.int32))
      known |= {text[: place + 1]: own for place, own in enumerate(said)}
    np.testing.assert_allclose(checks[text], known[text], atol=near)


@pytest.mark.slow
def test_engine_on_eight_devices_says_what_it_says_on_one(tmp_path):
  """Parameters of a checkpoint are dealt to all of them, and heads of keys and values to some."""
  alone = make("melodi")
  params = stock_model.by_path(alone.loaded.params)
  loading.save_params(tmp_path, {name: np.asarray(leaf[...]) for name, leaf in params.items()})
  config = loading.with_rows(running.initialize(**(KEYS["melodi"] | SIZES | MESH)), 8)
  mesh = loading.mesh_of(config)
  spread = PreparedModel(config, loading.load(config, mesh, str(tmp_path / "items")), mesh)
  leaves = jax.tree.leaves(spread.weights.layers)
  assert {len(leaf.sharding.device_set) for leaf in leaves} == {8}
  assert not all(leaf.sharding.is_fully_replicated for leaf in leaves)
  engine = Engine(spread, SLOTS, scores=True)
  keys = jax.tree.leaves(engine._rows.opened)[0]
  assert keys.sharding.shard_shape(keys.shape)[3] == keys.shape[3] // 2
  texts = {slot: document(slot, LONG - slot) for slot in range(SLOTS)}
  read_in_pieces(engine, {slot: text[: 9 * slot] for slot, text in texts.items()}, seed=0)
  slots = [1, 3]
  engine.insert(1, engine.extract(1))
  found = score(engine, {slot: texts[slot][9 * slot : 9 * slot + 11] for slot in slots})
  for slot in slots:
    found[slot] = np.concatenate(
      [found[slot], force(engine, {slot: texts[slot][9 * slot + 11 :]})[slot]]
    )
    np.testing.assert_allclose(found[slot], alone.logprobs(texts[slot])[9 * slot :], atol=NEAR)
