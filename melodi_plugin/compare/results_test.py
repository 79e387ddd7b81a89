"""Means over seeds, spread over documents, and the change against the first row."""

import math
import statistics

import pytest

from melodi_plugin.compare import results
from melodi_plugin.testing.comparison import make_evaluation, make_result, make_row

CHANGED = "melodi_long_term_windows=8"


def test_seeds_are_put_together():
  row = make_row(changed=[CHANGED])
  runs = [make_result(row, seed, nats) for seed, nats in enumerate((3.0, 3.2))]
  (found,) = results.put_together([row], runs)
  perplexities = [run["evaluation"]["perplexity"] for run in runs]
  assert found.perplexity.mean == pytest.approx(statistics.mean(perplexities))
  assert found.perplexity.deviation == pytest.approx(statistics.stdev(perplexities))
  assert (found.perplexity.low, found.perplexity.high) == pytest.approx(perplexities)
  assert found.evaluation["documents"][0]["perplexity"] == pytest.approx(math.exp(3.1))
  assert found.evaluation["positions"][0]["to"] == 16
  low, high = found.documents
  assert math.exp(3.1) < low < high < math.exp(3.3)
  assert found.tokens_per_second == 100.5 and found.peak_bytes == (2**30, "host")
  assert found.change is None
  (changed,) = found.changed
  assert changed.perplexity.mean < found.perplexity.mean
  assert changed.sizes["memory_all"] == 2 * row.sizes["memory_all"]


def test_rows_are_compared_document_by_document_and_seed_by_seed():
  one, two = make_row("one"), make_row("two")
  runs = [make_result(one, 0, 3.0), make_result(two, 0, 2.9), make_result(two, 1, 5.0)]
  _, found = results.put_together([one, two], runs)
  # Seed 1, which the first row has not (yet), does not count.
  assert found.change.mean == pytest.approx(math.expm1(-0.1))
  assert found.change.within == pytest.approx([math.expm1(-0.1)] * 2, rel=1e-5)
  only = [make_result(one, 0, 3.0), make_result(two, 1, 2.9)]
  assert results.put_together([one, two], only)[1].change is None


def test_row_without_a_finished_run_is_left_out():
  one, two = make_row("one"), make_row("two")
  (found,) = results.put_together([one, two], [make_result(two, 0, 3.0)])
  assert found.row is two and found.change is None
  # Nor does another row take the place of the first.
  three = make_row("three")
  runs = [make_result(row, 0, 3.0) for row in (two, three)]
  assert [row.change for row in results.put_together([one, two, three], runs)] == [None, None]


def test_failed_evaluation_with_a_key_changed_is_left_out():
  row = make_row(changed=[CHANGED])
  whole, failed = make_result(row, 0, 3.0), make_result(row, 1, 3.2, evaluated_with={})
  (found,) = results.put_together([row], [whole, failed])
  assert found.changed[0].perplexity == results.over(
    [whole["evaluated_with"][CHANGED]["perplexity"]]
  )
  lines = [(line["seed"], line["evaluated_with"]) for line in results.per_seed(found)]
  assert lines == [(0, ""), (0, CHANGED), (1, "")]
  assert results.put_together([row], [failed])[0].changed == []


def test_loss_that_is_not_finite_has_no_mean():
  row = make_row()
  broken = make_evaluation(float("nan"))
  runs = [make_result(row, 0, 3.0), make_result(row, 1, 3.0, evaluation=broken)]
  (found,) = results.put_together([row], runs)
  assert found.perplexity is None and found.documents is None


def test_other_documents_are_not_compared():
  one, two = make_row("one"), make_row("two")
  other = make_result(two, 0, 3.0, evaluation=make_evaluation(3.0, tokens=40))
  assert results.put_together([one, two], [make_result(one, 0, 3.0), other])[1].change is None


def test_device_memory_counts_where_there_is_a_device():
  row = make_row()
  (found,) = results.put_together([row], [make_result(row, 0, 3.0, peak_device_bytes=7)])
  assert found.peak_bytes == (7, "device")
