"""Draws against probabilities worked out by hand; what a draw must not depend on."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from maxtext.inference import inference_utils
from scipy import stats

from melodi_plugin.serving.sampling import (
  TOP,
  Sampling,
  _kept,
  count_drawn,
  idle_sampling,
  insert_sampling,
  sample,
  sampling_row,
)
from melodi_plugin.serving.sampling_settings import SamplingSettings

N, V = 8192, 7
LOGITS = np.array([1.0, -0.5, 2.0, 0.3, 1.2, -1.5, 0.9], np.float32)
GENERATED = np.array([0, 0, 3, 1, 0, 0, 0], np.int16)

draw = jax.jit(sample)
insert = jax.jit(insert_sampling)
count = jax.jit(count_drawn)
kept = jax.jit(_kept)


def rows_of(settings, slots=N, **changes) -> Sampling:
  """Rows with the same settings and a seed each."""
  row = sampling_row(settings, V)
  rows = jax.tree.map(lambda leaf: jnp.asarray(np.repeat(leaf, slots, axis=0)), row)
  return rows._replace(seed=jnp.arange(slots, dtype=jnp.uint32), **changes)


def probabilities(logits, settings, generated) -> np.ndarray:
  """What a row should draw from, step by step as the settings say."""
  logits = logits.astype(np.float64)
  for token, bias in settings.logit_bias.items():
    logits[token] += bias
  for token, count in enumerate(generated):
    if count:
      logits[token] -= settings.presence_penalty + settings.frequency_penalty * count

  def softmax(temperature):
    weights = np.exp((logits - logits.max()) / temperature)
    return weights / weights.sum()

  p = softmax(1.0 if settings.temperature_last else settings.temperature)
  order = sorted(range(len(p)), key=lambda token: -p[token])
  if settings.top_k:
    order = order[: settings.top_k]
  total, nucleus = 0.0, []
  for token in order:
    nucleus.append(token)
    total += p[token] / p[order].sum()
    if total >= settings.top_p:
      break
  kept = [token for token in nucleus if p[token] >= settings.min_p * p[order[0]]]
  mask = np.isin(np.arange(len(p)), kept)
  p = np.where(mask, softmax(settings.temperature), 0)
  return p / p.sum()


def agree(tokens, p) -> bool:
  """Whether the tokens may be draws of these probabilities (χ²); never one of probability 0."""
  found = np.bincount(np.asarray(tokens), minlength=len(p))
  seen = p > 0
  if found[~seen].any():
    return False
  expected = found.sum() * p[seen]
  return len(expected) == 1 or bool(stats.chisquare(found[seen], expected).pvalue > 1e-3)


SETTINGS = {
  "plain": {},
  "cold": dict(temperature=0.6),
  "hot": dict(temperature=3.0),
  "top_k": dict(top_k=3),
  "top_k of one": dict(top_k=1, temperature=2.0),
  "top_k of more than there are": dict(top_k=50),
  "top_p": dict(top_p=0.7),
  "top_p after a temperature": dict(top_p=0.7, temperature=2.0),
  "top_p before a temperature": dict(top_p=0.7, temperature=2.0, temperature_last=True),
  "top_p of nothing": dict(top_p=0.0),
  "min_p": dict(min_p=0.3),
  "min_p after a temperature": dict(min_p=0.3, temperature=2.0),
  "all three": dict(top_k=5, top_p=0.9, min_p=0.25, temperature=1.5),
  "bias": dict(logit_bias={2: -100, 5: 2.5}),
  "presence": dict(presence_penalty=1.5),
  "frequency": dict(frequency_penalty=0.5),
  "reward": dict(presence_penalty=-1.0, frequency_penalty=-0.5),
  "everything": dict(
    logit_bias={1: 2},
    presence_penalty=0.4,
    frequency_penalty=0.3,
    temperature=0.8,
    top_k=4,
    top_p=0.95,
    min_p=0.1,
  ),
}


@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
def test_draws_have_the_probabilities_of_the_settings(values):
  settings = SamplingSettings(**values)
  rows = rows_of(settings, counts=jnp.tile(GENERATED, (N, 1)))
  drawn = draw(jnp.tile(LOGITS, (N, 1)), rows)
  p = probabilities(LOGITS, settings, GENERATED)
  assert agree(drawn.tokens, p)
  bare = probabilities(LOGITS, SamplingSettings(), GENERATED)
  assert np.allclose(p, bare) or not agree(drawn.tokens, bare)  # so many draws tell them apart


def test_tokens_of_one_row_have_the_probabilities_of_the_settings():
  settings = SamplingSettings(seed=5)
  rows = rows_of(settings)._replace(
    seed=jnp.full(N, 5, jnp.uint32), drawn=jnp.arange(N, dtype=jnp.int32)
  )
  drawn = draw(jnp.tile(LOGITS, (N, 1)), rows)
  assert agree(drawn.tokens, probabilities(LOGITS, settings, GENERATED * 0))


@pytest.mark.parametrize("strategy", ["greedy", "weighted", "nucleus", "topk", "composite"])
def test_strategies_of_maxtext_draw_as_maxtext_does(strategy):
  keys = types.SimpleNamespace(
    decode_sampling_strategy=strategy,
    decode_sampling_temperature=1.7,
    decode_sampling_top_k=4,
    decode_sampling_nucleus_p=0.6,
  )
  logits = jnp.tile(LOGITS, (N, 1))
  theirs = inference_utils.sampling(logits, jax.random.key(0), strategy, 4, 0.6, 1.7)
  settings = SamplingSettings.from_maxtext(keys)
  if strategy == "greedy":
    assert set(np.asarray(theirs).tolist()) == {int(LOGITS.argmax())}
    ours = draw(logits, rows_of(settings)).tokens
    np.testing.assert_array_equal(ours, theirs)
    return
  p = probabilities(LOGITS, settings, GENERATED * 0)
  assert agree(theirs, p)
  assert agree(draw(logits, rows_of(settings)).tokens, p)


MIXED = [dict(temperature=0), {}, dict(top_k=2), dict(top_p=0.5, min_p=0.1), dict(temperature=4.0)]


def generated(values, seed, logits, slots, slot, mates) -> list[tuple]:
  """Six tokens of one row in `slot` of `slots`, among rows with the settings of `mates`."""
  vocabulary = logits.shape[1]
  rows = jax.tree.map(jnp.asarray, idle_sampling(slots, vocabulary))
  for other, own in enumerate(mates):
    row = sampling_row(SamplingSettings(**own, seed=100 + other), vocabulary)
    rows = insert(rows, jnp.int32(other % slots), row)
  row = sampling_row(SamplingSettings(**values, seed=seed), vocabulary)
  rows = insert(rows, jnp.int32(slot), row)
  tokens = []
  for step, own in enumerate(logits):
    given = np.random.default_rng(step).normal(size=(slots, vocabulary)).astype(np.float32)
    given[slot] = own
    drawn = draw(given, rows)
    rows = count(rows, drawn.tokens, np.arange(slots) % 3 != (slot + 1) % 3)
    tokens.append(tuple(np.asarray(leaf[slot]).tobytes() for leaf in drawn))
  return tokens


@pytest.mark.parametrize("values", [{}, *MIXED[2:], dict(frequency_penalty=2, temperature=0.5)])
def test_seeded_text_depends_on_nothing_but_the_row(values):
  logits = np.random.default_rng(1).normal(size=(6, 33)).astype(np.float32)
  alone = generated(values, 9, logits, slots=1, slot=0, mates=[])
  assert alone == generated(values, 9, logits, slots=5, slot=0, mates=[])
  assert alone == generated(values, 9, logits, slots=5, slot=3, mates=MIXED)
  assert alone != generated(values, 10, logits, slots=1, slot=0, mates=[])


def test_random_numbers_are_those_of_threefry_whatever_the_process_prefers():
  logits = jnp.tile(LOGITS, (64, 1))
  expected = draw(logits, rows_of(SamplingSettings(), 64)).tokens
  with jax.default_prng_impl("rbg"):
    found = jax.jit(lambda *given: sample(*given))(logits, rows_of(SamplingSettings(), 64)).tokens
  np.testing.assert_array_equal(expected, found)


@pytest.fixture(scope="module")
def large():
  """Rows of a large vocabulary, settings of all kinds, many equal logits (bfloat16)."""
  logits = jnp.asarray(np.random.default_rng(2).normal(size=(16, 1000)), jnp.bfloat16)
  logits = 5 * logits.astype(jnp.float32)
  rows = jax.tree.map(jnp.asarray, idle_sampling(16, 1000))
  for slot in range(16):
    settings = SamplingSettings(**MIXED[slot % len(MIXED)], seed=slot, logit_bias={3: 1})
    rows = insert(rows, jnp.int32(slot), sampling_row(settings, 1000))
  return logits, rows, draw(logits, rows)


@pytest.mark.parametrize("seed", range(4))
def test_tokens_that_are_left_are_those_of_a_sorted_vocabulary(large, seed):
  logits, rows, _ = large
  rng = np.random.default_rng(seed)
  own = [
    SamplingSettings(
      temperature=rng.uniform(0.3, 3),
      top_k=rng.choice([0, 1, 5, 40, 999]),
      top_p=rng.choice([1.0, rng.uniform()]),
      min_p=rng.choice([0.0, 0.2 * rng.uniform()]),
    )
    for _ in range(16)
  ]
  rows = rows._replace(
    temperature=np.array([s.temperature for s in own], np.float32),
    top_k=np.array([s.top_k for s in own], np.int32),
    top_p=np.array([s.top_p for s in own], np.float32),
    min_p=np.array([s.min_p for s in own], np.float32),
    temperature_last=np.zeros(16, bool),
  )
  found = kept(logits - logits.max(1, keepdims=True), rows.temperature, rows)
  expected = [probabilities(np.asarray(l), s, []) > 0 for l, s in zip(logits, own, strict=True)]
  np.testing.assert_array_equal(found, expected)


def test_log_probabilities_are_the_model_s_own(large):
  logits, _, drawn = large
  expected = np.asarray(logits, np.float64)
  expected -= np.log(np.exp(expected).sum(1, keepdims=True))
  at = np.take_along_axis(expected, np.asarray(drawn.tokens)[:, None], 1)[:, 0]
  np.testing.assert_allclose(drawn.logprobs, at, atol=2e-6)
  np.testing.assert_allclose(
    drawn.top_logprobs, np.take_along_axis(expected, np.asarray(drawn.top_ids), 1), atol=2e-6
  )
  assert (np.diff(drawn.top_logprobs) <= 0).all()


def test_token_and_list_have_the_same_number(large):
  _, _, drawn = large
  listed = np.asarray(drawn.top_ids) == np.asarray(drawn.tokens)[:, None]
  assert listed.any(1).sum() > 8
  rows, ranks = np.nonzero(listed)
  np.testing.assert_array_equal(drawn.logprobs[rows], drawn.top_logprobs[rows, ranks])


def test_greedy_row_takes_the_first_of_the_list(large):
  logits, _, _ = large
  logits = logits.at[:, 500].set(logits.max(1)).at[:, 40].set(logits.max(1))  # ties
  drawn = draw(logits, idle_sampling(16, 1000))
  np.testing.assert_array_equal(drawn.tokens, drawn.top_ids[:, 0])
  np.testing.assert_array_equal(drawn.tokens, np.asarray(logits).argmax(1))
  np.testing.assert_array_equal(drawn.logprobs, drawn.top_logprobs[:, 0])


def test_logits_that_only_their_logarithms_make_equal_keep_their_order():
  logits = np.zeros((16, 1000), np.float32)
  logits[:, 7] = 1e-7
  drawn = draw(logits, idle_sampling(16, 1000))
  assert drawn.tokens[0] == drawn.top_ids[0, 0] == 7
  assert drawn.top_logprobs[0, 0] == drawn.top_logprobs[0, 1]


@pytest.mark.parametrize(
  "left, values", [(1, dict(top_k=1)), (2, dict(top_k=2)), (3, dict(min_p=1))]
)
def test_of_equal_tokens_the_first_ones_are_kept(left, values):
  logits = np.array([0, 2, 1, 2, 2, 0, 1], np.float32)
  tokens = draw(jnp.tile(logits, (N, 1)), rows_of(SamplingSettings(**values))).tokens
  assert set(np.asarray(tokens).tolist()) == set([1, 3, 4][:left])


def test_log_probabilities_of_a_small_vocabulary_are_complete():
  drawn = draw(jnp.tile(LOGITS, (N, 1)), rows_of(SamplingSettings(top_k=2)))
  assert V < TOP and drawn.top_ids.shape == drawn.top_logprobs.shape == (N, V)
  np.testing.assert_array_equal(np.sort(drawn.top_ids, axis=1), np.tile(np.arange(V), (N, 1)))
  np.testing.assert_allclose(np.exp(drawn.top_logprobs).sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e6])
def test_extreme_temperatures_and_logits_give_tokens(temperature):
  logits = jnp.tile(LOGITS, (N, 1)).at[:, 0].set(-jnp.inf).at[:, 2].set(3e38)
  rows = rows_of(SamplingSettings(temperature=temperature, top_k=3, top_p=0.9))
  assert set(np.asarray(draw(logits, rows).tokens).tolist()) == {2}


def test_logits_that_are_not_finite_show_in_their_own_row_only():
  logits = np.tile(LOGITS, (N, 1))
  logits[1, 2], logits[2, 2] = np.nan, np.inf
  rows = rows_of(SamplingSettings())
  drawn = draw(logits, rows)
  assert np.nonzero(~np.isfinite(np.asarray(drawn.logprobs)))[0].tolist() == [1, 2]
  others = np.arange(N) > 2
  np.testing.assert_array_equal(
    drawn.tokens[others], draw(np.tile(LOGITS, (N, 1)), rows).tokens[others]
  )


def test_only_active_rows_count_what_they_have_drawn():
  rows = rows_of(SamplingSettings(), 3)
  counts = np.zeros((3, V), np.int16)
  counts[2, 4] = 32767
  rows = rows._replace(counts=counts)
  after = count(rows, np.int32([4, 4, 4]), np.array([True, False, True]))
  np.testing.assert_array_equal(after.drawn, [1, 0, 1])
  np.testing.assert_array_equal(after.counts[:, 4], [1, 0, 32767])
  assert np.asarray(after.counts).sum() == 1 + 32767


def test_settings_go_into_one_slot_only():
  before = rows_of(SamplingSettings(temperature=0.5), 4, drawn=jnp.arange(4, dtype=jnp.int32))
  settings = SamplingSettings(temperature=2, logit_bias={3: -1, 6: 2}, seed=-1, top_k=4)
  after = insert(before, jnp.int32(2), sampling_row(settings, V))
  others = np.array([0, 1, 3])
  jax.tree.map(
    lambda new, old: np.testing.assert_array_equal(new[others], old[others]), after, before
  )
  assert (after.temperature[2], after.top_k[2], after.drawn[2]) == (2, 4, 0)
  assert int(after.seed[2]) == 2**32 - 1
  assert after.bias_ids[2, :3].tolist() == [3, 6, V]
  assert after.bias[2, :3].tolist() == [-1, 2, 0]


def test_bias_of_a_token_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match=r"logit_bias names token 7, but the tokens .* are 0 to 6"):
    sampling_row(SamplingSettings(logit_bias={7: 1}), V)
