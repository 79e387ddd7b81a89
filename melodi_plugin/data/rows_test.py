"""Continuity of the rows, targets, broken documents, workers and hosts."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.data.read_ahead import Workers
from melodi_plugin.data.row import OpenDocument
from melodi_plugin.data.rows import _write
from melodi_plugin.testing.files.numbers import (
  LENGTHS,
  T,
  W,
  assert_equal,
  rows_of,
  source_of,
  tokenize,
)


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
  batches = list(rows_of(rows=rows, window_length=window, with_document_index=True))
  read = list(itertools.chain(*_read(batches).values()))
  assert sorted(index for index, *_ in read) == list(range(len(LENGTHS)))
  for index, tokens, positions, targets in read:
    assert tokens == tokenize(source_of()[index].text)
    assert positions == list(range(len(tokens)))
    assert targets == tokens[1:]


def test_batch_of_two_documents_in_a_row_spelled_out():
  batch = next(iter(rows_of((6, 9), rows=1)))
  assert {key: value.tolist()[0] for key, value in batch.items()} == {
    "inputs": [1, 2, 3, 4, 5, 6, 0, 0, 1001, 1002, 1003, 1004],
    "inputs_position": [0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 2, 3],
    "inputs_segmentation": [1, 1, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2],
    "targets": [2, 3, 4, 5, 6, 0, 0, 0, 1002, 1003, 1004, 1005],
    "targets_position": [0, 1, 2, 3, 4, 5, 0, 0, 0, 1, 2, 3],
    "targets_segmentation": [1, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2],
  }
  assert all(value.dtype == np.int32 for value in batch.values())


class _EveryThird:
  """A tokenizer by which only tokens whose numbers are multiples of three are to be predicted."""

  def __call__(self, text):
    return self.with_scored(text)[0]

  def with_scored(self, text):
    ids = np.array(tokenize(text), np.int32)
    return ids, ids % 3 == 0


@pytest.mark.parametrize("segment", [4, 12])
def test_only_scored_tokens_count_as_targets_and_all_are_read(segment):
  whole = list(rows_of(segment_length=segment, with_document_index=True))
  rows = rows_of(segment_length=segment, with_document_index=True, tokenize=_EveryThird())
  for batch, other in zip(rows, whole, strict=True):
    counts = (other["targets_segmentation"] > 0) & (other["targets"] % 3 == 0)
    expected = np.where(counts, other.pop("targets_segmentation"), 0)
    np.testing.assert_array_equal(batch.pop("targets_segmentation"), expected)
    assert_equal([batch], [other])
  iterator = iter(rows)
  next(iterator)
  again = iter(rows)
  again.set_state(iterator.get_state())
  assert_equal(list(again), list(iterator))


def test_documents_start_at_window_boundaries_and_padding_is_zero():
  for batch in rows_of(with_document_index=True):
    padding = batch["inputs_segmentation"] == 0
    for key, value in batch.items():
      assert (value[padding] == (-1 if key == "document_index" else 0)).all()
    starts = (batch["inputs_position"] == 0) & ~padding
    assert (np.nonzero(starts)[1] % W == 0).all()
    assert (batch["targets"][batch["targets_segmentation"] == 0] == 0).all()


def test_document_of_exactly_one_segment_leaves_the_next_batch_to_the_next_document():
  first, second = list(rows_of((12, 8), rows=1))
  assert first["inputs"][0].tolist() == list(range(1, 13))
  assert first["targets_segmentation"][0].tolist() == [1] * 11 + [0]
  assert second["inputs"][0].tolist() == [*range(1001, 1009), 0, 0, 0, 0]


def test_a_finite_row_that_has_less_text_takes_the_next_document_and_the_end_is_padded():
  batches = list(rows_of((30, 4, 4, 4, 2), rows=2, with_document_index=True))
  starts = [[i.tolist()[::W] for i in batch["document_index"]] for batch in batches]
  end = [-1, -1, -1]
  # Without sizes all documents count the same.
  assert starts == [[[0, 0, 0], [1, 3, -1]], [[0, 0, 0], end], [[0, 0, 2], end], [[4, -1, -1], end]]


def test_same_seed_gives_the_same_batches_and_another_seed_others():
  arguments = {"shuffle": True, "epochs": 2}
  assert_equal(list(rows_of(**arguments)), list(rows_of(**arguments)))
  first, other = next(iter(rows_of(**arguments))), next(iter(rows_of(**arguments, seed=1)))
  assert not np.array_equal(first["inputs"], other["inputs"])


def test_repeating_for_ever_goes_on_past_the_epoch():
  dataset = rows_of((4, 6), rows=1, epochs=None, with_document_index=True)
  batches = list(itertools.islice(dataset, 4))
  windows = np.concatenate([batch["document_index"][0, ::W] for batch in batches])
  assert windows.tolist() == [0, 1, 1] * 4


@pytest.mark.parametrize("epochs", [1, None])
@pytest.mark.parametrize("hosts", [[[0, 1, 2], [3, 4, 5]], [[5, 0], [1, 3], [4, 2]]])
def test_rows_are_the_same_whoever_reads_them(hosts, epochs):
  arguments = {"rows": 6, "shuffle": True, "epochs": epochs}
  whole = list(itertools.islice(rows_of(**arguments), 9))
  for local in hosts:
    part = list(itertools.islice(rows_of(**arguments, local_rows=local), 9))
    for batch, mine in zip(whole, part, strict=False):
      for key in batch:
        np.testing.assert_array_equal(batch[key][local], mine[key])
    assert epochs is None or not any(b["inputs"][local].any() for b in whole[len(part) :])


@pytest.mark.parametrize("workers", [Workers(0, 3), Workers(2, 1)])
def test_workers_change_nothing(workers):
  arguments = {"epochs": 2, "shuffle": True}
  dataset = rows_of(**arguments, workers=workers)
  assert_equal(list(dataset), list(rows_of(**arguments)))
  dataset.close()


class _Broken(list):
  """Documents of which number 2 and 5 are broken."""

  def __getitem__(self, index):
    if index in (2, 5):
      raise BrokenDocument(f"file, record {index}", "is broken; mend it")
    return super().__getitem__(index)


@pytest.mark.parametrize("rows", [1, 3])
def test_broken_documents_stop_the_reading_or_are_left_out_and_told(rows):
  def read(on_broken):
    how = {"rows": rows, "on_broken": on_broken, "with_document_index": True}
    return list(rows_of(source=_Broken(source_of()), **how))

  with pytest.raises(BrokenDocument, match=r"file, record [25] is broken; mend it"):
    read(None)
  told = []
  batches = read(told.append)
  assert sorted(broken.where for broken in told) == ["file, record 2", "file, record 5"]
  kept = sorted(i for documents in _read(batches).values() for i, *_ in documents)
  assert kept == [i for i in range(len(LENGTHS)) if i not in (2, 5)]


def test_corpus_of_broken_documents_ends_with_an_error():
  class AllBroken(list):
    def __getitem__(self, index):
      raise BrokenDocument(f"record {index}", "is broken; mend it")

  rows = rows_of(source=AllBroken(source_of()), epochs=None, on_broken=lambda broken: None)
  with pytest.raises(ValueError, match="10 documents one after another are broken"):
    next(iter(rows))


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"window_length": 5}, "segment_length 12 is not a multiple of window_length 5"),
    ({"rows": 0}, "rows is 0"),
    ({"epochs": 0}, "epochs is 0"),
    ({"segment_length": 0}, "segment_length is 0"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    rows_of(**changes)


def test_positions_of_a_document_without_end_stay_positive():
  """Position 0 empties memory, and past 2^31 tokens an int32 would come back to it."""
  iterator = iter(rows_of(rows=1))
  batch, last = iterator.empty_batch(), 2**31 - 1
  tokens = np.broadcast_to(np.int32(7), last + 20)
  _write(batch, 0, 0, 1, OpenDocument(0, tokens, last - 3), last + T - 3)
  expected = [last - 3, last - 2, last - 1, *[last] * (T - 3)]
  assert batch["inputs_position"][0].tolist() == expected
  assert batch["targets_position"][0].tolist() == expected


def test_document_of_one_token_is_named():
  with pytest.raises(ValueError, match="document 1 has 1 token, and 2 are needed"):
    list(rows_of((4, 1)))
