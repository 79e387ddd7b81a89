"""Sums over documents, tokens and buckets, against the same in obvious loops."""

import json
import math

import numpy as np
import pytest

from melodi_plugin.evaluation import statistics as scores

TEXT = "to be or not to be"


def document(index=0, tokens=50, window=8, seed=None, **changed):
  """A score of random losses between 1 and 5 nats."""
  generator = np.random.default_rng(index if seed is None else seed)
  nats = generator.uniform(1, 5, tokens - 1).astype(np.float32)
  hits = generator.random(tokens - 1) < 0.5
  arguments = dict(nats=nats, hits=hits) | changed
  return scores.score_document(
    index, f"d{index}", TEXT, arguments["nats"], arguments["hits"], window=window
  )


def test_a_document_adds_up_its_losses_and_measures_its_raw_text():
  nats = np.asarray([1.0, 2.0, 4.0], np.float32)
  score = scores.score_document(3, "d", "Grüße an  alle", nats, np.array([1, 0, 1], bool), window=8)
  assert (score.index, score.tokens, score.nats, score.hits) == (3, 3, 7.0, 2)
  assert (score.words, score.bytes) == (3, 16)


def test_only_what_is_scored_adds_up_where_it_stands():
  nats = np.asarray([1.0, 2.0, 4.0, 8.0], np.float32)
  hits, scored = np.array([1, 1, 0, 0], bool), np.array([0, 1, 0, 1], bool)
  score = scores.score_document(0, "d", "two words", nats, hits, window=2, scored=scored)
  assert (score.tokens, score.nats, score.hits, score.words) == (2, 10.0, 1, 2)
  assert [(b.first, b.end, b.tokens, b.nats) for b in score.buckets] == [(2, 4, 1, 2), (4, 8, 1, 8)]


@pytest.mark.parametrize("window", [1, 4, 16])
@pytest.mark.parametrize("tokens", [2, 4, 5, 17, 64, 65])
def test_every_target_is_in_the_bucket_of_its_position(tokens, window):
  nats = np.arange(1, tokens, dtype=np.float32)  # the loss is the position of the target
  score = document(tokens=tokens, window=window, nats=nats, hits=nats > 0)
  assert sum(bucket.tokens for bucket in score.buckets) == tokens - 1
  for bucket in score.buckets:
    inside = [p for p in range(1, tokens) if bucket.first <= p < bucket.end]
    assert (bucket.tokens, bucket.nats) == (len(inside), sum(inside))
    assert bucket.end == window or bucket.end == 2 * bucket.first


def test_the_whole_weighs_documents_by_tokens_words_and_bytes():
  documents = [document(index, tokens=10 * (index + 1)) for index in range(4)]
  result = scores.summarise(documents)
  nats = sum(d.nats for d in documents)
  assert result["tokens"] == 9 + 19 + 29 + 39
  assert result["perplexity"] == pytest.approx(math.exp(nats / result["tokens"]))
  assert result["word_perplexity"] == pytest.approx(math.exp(nats / (4 * 6)))
  assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / (4 * len(TEXT)))
  assert sum(row["tokens"] for row in result["positions"]) == result["tokens"]
  assert sum(row["nats"] for row in result["positions"]) == pytest.approx(nats)
  assert [row["documents"] for row in result["positions"]] == [4, 4, 3, 1]
  assert result["accuracy"] == sum(d.hits for d in documents) / result["tokens"]
  spread = result["perplexity_per_document"]
  assert spread["min"] <= spread["median"] <= spread["max"]


def test_the_order_of_arrival_changes_nothing():
  documents = [document(index) for index in range(5)]
  assert scores.summarise(documents[::-1]) == scores.summarise(documents)


def test_a_loss_that_is_not_finite_is_named_and_not_averaged_away():
  nats = np.full(9, 2.0, np.float32)
  nats[4] = np.nan
  documents = [document(0), document(1, nats=nats, hits=nats > 0), document(2)]
  result = json.loads(json.dumps(scores.summarise(documents), allow_nan=False))
  assert result["not_finite"] == ["d1"]
  assert result["perplexity"] is None and result["nats"] is None and result["interval"] is None
  assert [d["perplexity"] is None for d in result["documents"]] == [False, True, False]
  assert result["positions"][0]["perplexity"] is None  # positions 0 to 7 hold the NaN
  assert result["positions"][1]["perplexity"] is not None


def test_one_word_of_many_tokens_has_no_word_perplexity():
  nats = np.full(800, 1.0, np.float32)
  score = scores.score_document(0, "d", "x" * 800, nats, nats > 0, window=8)
  assert scores.summarise([score])["word_perplexity"] is None


def test_the_interval_holds_the_perplexity_shrinks_with_documents_and_is_repeatable():
  few = scores.summarise([document(index) for index in range(5)])
  many = scores.summarise([document(index) for index in range(80)])
  for result in (few, many):
    low, high = result["interval"]
    assert low < result["perplexity"] < high
  assert np.ptp(many["interval"]) < np.ptp(few["interval"])
  assert scores.summarise([document(index) for index in range(5)])["interval"] == few["interval"]
  assert scores.interval([10], [20.0]) is None


def test_a_change_does_not_see_what_is_hard_for_both():
  generator = np.random.default_rng(0)
  losses = generator.uniform(1, 4, 20)

  def evaluation(shift, tokens=100):
    every = [np.full(tokens, loss + shift) for loss in losses]
    return scores.summarise(
      [document(i, tokens + 1, nats=n, hits=n > 0) for i, n in enumerate(every)]
    )

  base = evaluation(0.0)
  found = scores.change(evaluation(-0.1), base)
  assert found.mean == pytest.approx(math.expm1(-0.1))
  assert found.within == pytest.approx([math.expm1(-0.1)] * 2)
  assert str(found) == "-9.5% (-9.5% to -9.5%)"
  assert base["interval"][1] / base["interval"][0] > 1.5
  assert scores.change(evaluation(0.0, tokens=90), base) is None
  assert scores.change(evaluation(float("nan")), base) is None
  assert scores.change(evaluation(800.0), base) is None  # its perplexity is no number


def test_padding_to_the_longest_document_is_counted_in_whole_segments():
  # Two batches of two rows: 10 -> 2 segments of 8, 3 -> 1 segment.
  assert scores.padded_share([10, 4, 3], rows=2, segment=8) == 17 / (2 * 16 + 2 * 8)
  assert scores.padded_share([8, 8], rows=2, segment=8) == 1.0
