"""Every document once per epoch, rows that end together."""

import itertools

import numpy as np
import pytest

from melodi_plugin.data.order import DocumentOrder, longest_last, share_out


def _read(order, row):
  documents = (order.document(row, k) for k in itertools.count())
  return list(itertools.takewhile(lambda document: document is not None, documents))


@pytest.mark.parametrize("rows", [1, 3, 7, 20])
def test_for_ever_every_epoch_holds_every_document_once(rows):
  order = DocumentOrder(10, rows, True, 5, None)
  read: dict[int, list] = {0: [], 1: [], 2: []}
  for row in range(rows):
    for k in range(30 // rows + 1):
      if order.epoch(row, k) in read:
        read[order.epoch(row, k)].append(order.document(row, k))
  assert all(sorted(documents) == list(range(10)) for documents in read.values())


def test_epochs_and_seeds_have_their_own_order():
  def first_epochs(seed):
    order = DocumentOrder(50, 1, True, seed, None)
    read = [order.document(0, k) for k in range(100)]
    return tuple(read[:50]), tuple(read[50:])

  assert len({*first_epochs(0), *first_epochs(1)}) == 4
  unshuffled = DocumentOrder(5, 2, False, 0, None)
  assert [unshuffled.document(0, k) for k in range(5)] == [0, 2, 4, 1, 3]


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_finite_reading_is_complete(epochs, shuffle):
  sizes = np.random.default_rng(0).integers(1, 1000, 40)
  order = DocumentOrder(40, 6, shuffle, 0, epochs, sizes)
  read = list(itertools.chain(*(_read(order, row) for row in range(6))))
  assert sorted(read) == sorted(list(range(40)) * epochs)


def test_finite_rows_end_together():
  sizes = np.random.default_rng(1).lognormal(10, 1, 400).astype(np.int64)
  rows, stream = 16, np.random.default_rng(3).permutation(400)

  def idle(lists):
    loads = [sizes[read].sum() for read in lists]
    return 1 - np.mean(loads) / np.max(loads)

  naive = idle([stream[row::rows] for row in range(rows)])
  shared = idle(share_out(stream, sizes, rows))
  ours = idle(share_out(longest_last(stream, sizes, rows), sizes, rows))
  assert ours < 0.01
  assert ours < shared < naive


def test_only_the_end_of_the_stream_is_sorted():
  sizes = np.array([5, 1, 4, 2, 3, 1, 2, 5, 1, 3])
  stream = np.arange(10)
  sorted_ = longest_last(stream, sizes, 2)
  assert sorted(sorted_) == list(stream)
  tail = next(i for i in range(10) if sorted_[i] != i)
  assert tail > 4
  assert list(sizes[sorted_[tail:]]) == sorted(sizes[tail:], reverse=True)


@pytest.mark.parametrize("name", ["documents", "rows", "epochs"])
def test_sizes_below_one_are_refused(name):
  arguments = {"documents": 3, "rows": 2, "shuffle": False, "seed": 0, "epochs": 1}
  with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
    DocumentOrder(**(arguments | {name: 0}))
