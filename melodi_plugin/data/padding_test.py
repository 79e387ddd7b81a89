"""Padding as counted in real batches."""

import numpy as np
import pytest

from melodi_plugin.data.documents import Document
from melodi_plugin.data.padding import compare, padding
from melodi_plugin.data.rows import StickyRows

W, T = 4, 12


def test_padding_is_what_the_batches_hold():
  lengths = np.random.default_rng(0).integers(2, 90, 30)
  source = [Document(str(i), " ".join(["1"] * n)) for i, n in enumerate(lengths)]
  dataset = StickyRows(
    source,
    lambda text: [int(token) for token in text.split()],
    rows=4,
    segment_length=T,
    window_length=W,
    shuffle=False,
    seed=0,
    epochs=1,
    sizes=lengths,
  )
  filled = np.concatenate([batch["inputs_segmentation"] > 0 for batch in dataset])
  found = padding(lengths, dataset.order._lists, W, T)
  assert found.tails + found.ends == pytest.approx(1 - filled.mean())


def test_padding_spelled_out():
  found = padding(np.array([5, 12, 3]), [[0, 2], [1]], W, T)
  assert found == pytest.approx((4 / 24, 0.0))
  assert padding(np.array([4, 12]), [[0], [1]], W, T) == pytest.approx((0.0, 8 / 24))


def test_rows_that_end_together_have_the_least_padding():
  lengths = np.random.default_rng(3).lognormal(6, 1, 300).astype(int) + 2
  found = compare(lengths, lengths, rows=16, window=16, segment=64)
  ends = [shares.ends for shares in found.values()]
  assert ends[0] > ends[1] > ends[2] > ends[3]
  assert 0 == ends[4] < ends[3] < 0.02
