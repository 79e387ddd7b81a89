"""Snapshots against a list of everything that is kept, searched from end to end."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melodi_plugin.data.corpus import shakespeare
from melodi_plugin.serving import snapshots
from melodi_plugin.serving.snapshots import Snapshots

BUDGET = 64


class Model:
  """(owner, tokens, state, bytes), the one unused for longest first."""

  def __init__(self):
    self.kept, self.evicted = [], 0

  def add(self, tokens, state, size, owner):
    size += 4 * len(tokens)
    if size > BUDGET:
      return False
    self.kept = [own for own in self.kept if own[:2] != (owner, tokens)]
    while sum(own[3] for own in self.kept) + size > BUDGET:
      self.kept.pop(0)
      self.evicted += 1
    self.kept.append((owner, tokens, state, size))
    return True

  def longest(self, tokens, owner):
    fits = [own for own in self.kept if own[0] == owner and tokens[: len(own[1])] == own[1]]
    if not fits:
      return None
    found = max(fits, key=lambda own: len(own[1]))
    self.kept.remove(found)
    self.kept.append(found)
    return found[2], len(found[1])


IDS = st.lists(st.integers(0, 1), max_size=7).map(tuple)
OWNERS = st.sampled_from(["", "another"])
CALLS = st.lists(
  st.one_of(
    st.tuples(st.just("add"), IDS, st.integers(0, BUDGET), OWNERS),
    st.tuples(st.just("longest"), IDS, OWNERS),
  ),
  max_size=40,
)


@settings(deadline=None, derandomize=True, database=None, max_examples=500)
@given(CALLS)
def test_any_calls_give_what_a_search_of_everything_gives(calls):
  ours, model, states = Snapshots(BUDGET), Model(), itertools.count()
  hits = misses = saved = 0
  for verb, ids, *rest in calls:
    tokens = np.array(ids, np.int32)
    if verb == "add":
      state = next(states)
      assert ours.add(tokens, state, *rest) == model.add(ids, state, *rest)
      tokens[:] = 7  # the caller's array is the caller's
    else:
      expected = model.longest(ids, *rest)
      assert ours.longest(tokens, *rest) == expected
      hits, misses = hits + (expected is not None), misses + (expected is None)
      saved += expected[1] if expected else 0
    assert ours.bytes == sum(own[3] for own in model.kept) <= BUDGET
    assert (len(ours), ours.evicted) == (len(model.kept), model.evicted)
    assert (ours.hits, ours.misses, ours.tokens_saved) == (hits, misses, saved)


@settings(deadline=None, derandomize=True, database=None, max_examples=300)
@given(CALLS)
def test_ids_decide_where_all_digests_are_equal(calls):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(snapshots, "_digests", lambda _, lengths: [b"forged" for _ in lengths])
    ours = Snapshots(BUDGET)
    for verb, ids, *rest in calls:
      tokens = np.array(ids, np.int32)
      if verb == "add":
        ours.add(tokens, (ids, rest[1]), *rest)
      else:
        found = ours.longest(tokens, *rest)
        assert found is None or found == ((ids[: found[1]], rest[0]), found[1])
      assert ours.bytes <= BUDGET


def test_forged_digest_finds_nothing_and_shorter_prefixes_still_count(monkeypatch):
  monkeypatch.setattr(snapshots, "_digests", lambda _, lengths: [b"forged" for _ in lengths])
  ours = Snapshots(1000)
  ours.add(np.int32([1, 2]), "short", 1)
  ours.add(np.int32([1, 2, 3]), "long", 1)
  assert ours.longest(np.int32([1, 2, 4, 5])) == ("short", 2)
  assert ours.longest(np.int32([4, 2, 3])) is None


@pytest.mark.parametrize("budget, evicts", [(2**40, False), (200 * 2**20, True)])
def test_a_thousand_prefixes_of_real_text(budget, evicts):
  """Texts that begin alike; each goes on differently from somewhere."""
  text = next(iter(shakespeare.plays())).text.encode()[:20_000]
  rng = np.random.default_rng(0)
  differs = rng.integers(len(text), size=8)
  texts = [np.frombuffer(text, np.uint8).astype(np.int32) for _ in differs]
  for number, (own, place) in enumerate(zip(texts, differs, strict=True), start=1):
    own[place:] += number
  ours, stored = Snapshots(budget), []
  for _ in range(1000):
    number, length = rng.integers(8), rng.integers(1, len(text))
    prefix = texts[number][:length]
    cold = (length, prefix.sum())  # stands for what reading it gives
    assert ours.add(prefix, cold, 2**20)
    assert ours.bytes <= budget
    stored.append((number, length))
    asked, size = rng.integers(8), rng.integers(1, len(text))
    found = ours.longest(texts[asked][:size])
    if found:
      assert found[0] == (found[1], texts[asked][: found[1]].sum())
    if not evicts:
      alike = {own: len(text) if own == asked else min(differs[[own, asked]]) for own in range(8)}
      fits = [length for own, length in stored if length <= min(size, alike[own])]
      assert (found[1] if found else 0) == max(fits, default=0)
  assert ours.hits > 500 and (ours.evicted > 500) == evicts


def test_lookup_of_a_million_tokens_reads_them_once():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 50_000, 1_000_000).astype(np.int32)
  ours = Snapshots(2**34)
  for length in rng.integers(1, 1000, 2000):
    ours.add(tokens[:length], None, 0)
  ours.add(tokens[:-1], "long", 0)
  start = time.perf_counter()
  assert ours.longest(tokens) == ("long", 999_999)
  assert time.perf_counter() - start < 1


def test_state_over_the_budget_is_not_kept_and_throws_nothing_out():
  ours = Snapshots(100)
  assert ours.add(np.int32([1]), "small", 50)
  assert not ours.add(np.int32([1, 2]), "large", 93)
  assert ours.longest(np.int32([1, 2, 3])) == ("small", 1)
  assert (ours.bytes, ours.evicted) == (54, 0)
  assert ours.add(np.int32([1, 2]), "just fits", 92)
  assert (ours.bytes, ours.evicted, len(ours)) == (100, 1, 1)


def test_owners_do_not_see_each_other():
  ours = Snapshots(1000)
  ours.add(np.int32([1]), "of a", 1, owner="a")
  assert ours.longest(np.int32([1]), owner="b") is None
  assert ours.longest(np.int32([1])) is None
  assert ours.longest(np.int32([1]), owner="a") == ("of a", 1)
