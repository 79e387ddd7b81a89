"""Continuity of the rows, targets, order, shards, and exact resuming."""

import itertools
import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from melodi_plugin.data.documents import Document
from melodi_plugin.data.rows import StickyRows, document_order

W, T = 4, 12
# Shorter than a window, one window, one more, a multiple of W, of T, longer, the shortest.
LENGTHS = (3, 4, 5, 8, 12, 24, 31, 2, 13, 40)


def _source(lengths=LENGTHS) -> Any:
  """Document i has the tokens 1000 i + 1, 1000 i + 2, ..."""
  return [
    Document(f"d{i}", " ".join(str(1000 * i + j + 1) for j in range(length)))
    for i, length in enumerate(lengths)
  ]


def _tokenize(text):
  return [int(token) for token in text.split()]


def _rows(lengths=LENGTHS, **changes):
  arguments = {
    "rows": 3,
    "segment_length": T,
    "window_length": W,
    "shuffle": False,
    "seed": 0,
    "epochs": 1,
  }
  return StickyRows(_source(lengths), _tokenize, **(arguments | changes))


def _equal(batches, others):
  assert len(batches) == len(others)
  for one, other in zip(batches, others, strict=True):
    assert one.keys() == other.keys()
    for key in one:
      np.testing.assert_array_equal(one[key], other[key])


def _read(batches):
  """Per row, the documents read: (index, tokens, positions, targets), in order."""
  rows = defaultdict(list)
  for batch in batches:
    for row, indices in enumerate(batch["document_index"]):
      for t, index in enumerate(indices):
        if index < 0:
          continue
        if batch["inputs_position"][row, t] == 0:
          rows[row].append((int(index), [], [], []))
        current, tokens, positions, targets = rows[row][-1]
        assert current == index
        tokens.append(int(batch["inputs"][row, t]))
        positions.append(int(batch["inputs_position"][row, t]))
        if batch["targets_segmentation"][row, t]:
          targets.append(int(batch["targets"][row, t]))
  return rows


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("window", [1, 2, 4, 12])
def test_rows_give_the_documents_back_and_every_token_but_the_first_is_a_target_once(rows, window):
  batches = list(_rows(rows=rows, window_length=window, with_document_index=True))
  read = list(itertools.chain(*_read(batches).values()))
  assert sorted(index for index, *_ in read) == list(range(len(LENGTHS)))
  for index, tokens, positions, targets in read:
    assert tokens == _tokenize(_source()[index].text)
    assert positions == list(range(len(tokens)))
    assert targets == tokens[1:]


def test_batch_of_two_documents_in_a_row_spelled_out():
  batch = next(iter(_rows((6, 9), rows=1)))
  assert {key: value.tolist()[0] for key, value in batch.items()} == {
    "inputs": [1, 2, 3, 4, 5, 6, 0, 0, 1001, 1002, 1003, 1004],
    "inputs_position": [0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 2, 3],
    "inputs_segmentation": [1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2],
    "targets": [2, 3, 4, 5, 6, 0, 0, 0, 1002, 1003, 1004, 1005],
    "targets_position": [0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 2, 3],
    "targets_segmentation": [1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2],
  }
  assert all(value.dtype == np.int32 for value in batch.values())


def test_documents_start_at_window_boundaries_and_padding_is_zero():
  for batch in _rows(with_document_index=True):
    padding = batch["inputs_segmentation"] == 0
    for key, value in batch.items():
      assert (value[padding] == (-1 if key == "document_index" else 0)).all()
    starts = (batch["inputs_position"] == 0) & ~padding
    assert (np.nonzero(starts)[1] % W == 0).all()
    assert (batch["targets"][batch["targets_segmentation"] == 0] == 0).all()


def test_document_of_exactly_one_segment_leaves_the_next_batch_to_the_next_document():
  first, second = list(_rows((12, 8), rows=1))
  assert first["inputs"][0].tolist() == list(range(1, 13))
  assert first["targets_segmentation"][0].tolist() == [1] * 11 + [0]
  assert second["inputs"][0].tolist() == [*range(1001, 1009), 0, 0, 0, 0]


def test_rows_pull_in_row_order_and_the_end_is_padded():
  batches = list(_rows((30, 4, 4, 4, 2), rows=2, with_document_index=True))
  starts = [[i.tolist()[::W] for i in batch["document_index"]] for batch in batches]
  assert starts == [[[0, 0, 0], [1, 2, 3]], [[0, 0, 0], [4, -1, -1]], [[0, 0, -1], [-1, -1, -1]]]


def test_same_seed_gives_the_same_batches_and_shuffling_changes_with_seed_and_epoch():
  _equal(list(_rows(shuffle=True, epochs=2)), list(_rows(shuffle=True, epochs=2)))
  orders = [
    document_order(50, shuffle=True, seed=seed, epoch=epoch, shard_index=0, shard_count=1).tolist()
    for seed, epoch in ((0, 0), (0, 1), (1, 0))
  ]
  assert len(set(map(tuple, orders))) == 3
  assert all(sorted(order) == list(range(50)) for order in orders)


@pytest.mark.parametrize(
  "changes",
  [
    {"epochs": 2},
    {"epochs": 2, "shuffle": True, "rows": 4},
    {"window_length": 1, "rows": 1},
  ],
)
def test_resume_after_any_batch_gives_the_same_batches(changes):
  dataset = _rows(**changes, with_document_index=True)
  iterator, batches, states = iter(dataset), [], []
  states.append(json.dumps(iterator.get_state()))
  for batch in iterator:
    batches.append(batch)
    states.append(json.dumps(iterator.get_state()))
  fresh = iter(dataset)
  for done, state in reversed(list(enumerate(states))):
    fresh.set_state(json.loads(state))
    assert json.dumps(fresh.get_state()) == state
    _equal(list(fresh), batches[done:])


def test_repeating_for_ever_goes_on_past_the_epoch():
  dataset = _rows((4, 6), rows=1, epochs=None, with_document_index=True)
  batches = list(itertools.islice(dataset, 4))
  windows = np.concatenate([batch["document_index"][0, ::W] for batch in batches])
  assert windows.tolist() == [0, 1, 1] * 4


def test_finished_run_can_be_continued_with_more_epochs():
  one, two = iter(_rows(rows=1)), iter(_rows(rows=1, epochs=2, with_document_index=True))
  for _ in one:
    pass
  two.set_state(one.get_state())
  assert sorted(i for i, *_ in _read(list(two))[0]) == list(range(len(LENGTHS)))
  with pytest.raises(StopIteration):
    next(one)


@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_are_disjoint_and_together_complete(shuffle):
  read = []
  for shard in range(3):
    batches = _rows(shuffle=shuffle, shard_index=shard, shard_count=3, with_document_index=True)
    read += [i for documents in _read(list(batches)).values() for i, *_ in documents]
  assert sorted(read) == list(range(len(LENGTHS)))


@pytest.mark.parametrize(
  ("changes", "name"),
  [
    ({"rows": 4}, "rows=3 but this run has rows=4"),
    ({"segment_length": 24}, "segment_length=12"),
    ({"window_length": 6}, "window_length=4"),
    ({"shuffle": True}, "shuffle=False"),
    ({"seed": 1}, "seed=0"),
    ({"shard_count": 2}, "shard_count=1"),
    ({"lengths": LENGTHS[:-1]}, "documents=10"),
  ],
)
def test_state_of_another_set_up_is_refused(changes, name):
  state = iter(_rows()).get_state()
  with pytest.raises(ValueError, match=name):
    iter(_rows(**changes)).set_state(state)


def test_state_of_another_tokenizer_is_refused():
  iterator = iter(_rows())
  next(iterator)
  other = StickyRows(
    _source(),
    lambda text: [1, *_tokenize(text)],
    rows=3,
    segment_length=T,
    window_length=W,
    shuffle=False,
    seed=0,
    epochs=1,
  )
  with pytest.raises(ValueError, match="same files and tokenizer"):
    iter(other).set_state(iterator.get_state())


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"window_length": 5}, "segment_length 12 is not a multiple of window_length 5"),
    ({"rows": 0}, "rows is 0"),
    ({"epochs": 0}, "epochs is 0"),
    ({"shard_index": 2, "shard_count": 2}, "shard_index 2"),
    ({"lengths": (4,), "shard_count": 2}, "1 documents cannot be split over 2"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    _rows(**changes)


def test_document_of_one_token_is_named():
  with pytest.raises(ValueError, match="Document d1 has 1 tokens"):
    list(_rows((4, 1)))
