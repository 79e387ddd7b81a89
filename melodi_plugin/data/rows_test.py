"""Continuity of the rows, targets, broken documents, workers, hosts, and exact resuming."""

import itertools
import json
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from melodi_plugin.data.documents import BrokenDocument, Document
from melodi_plugin.data.place import BrokenPlace, StateMismatch, merge_states
from melodi_plugin.data.read_ahead import Workers
from melodi_plugin.data.row import OpenDocument
from melodi_plugin.data.rows import StickyRows, _write

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


def _rows(lengths=LENGTHS, source=None, tokenize=_tokenize, **changes):
  arguments = {
    "rows": 3,
    "segment_length": T,
    "window_length": W,
    "shuffle": False,
    "seed": 0,
    "epochs": 1,
  }
  return StickyRows(source or _source(lengths), tokenize, **(arguments | changes))


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


class _EveryThird:
  """A tokenizer by which only tokens whose numbers are multiples of three are to be predicted."""

  def __call__(self, text):
    return self.with_scored(text)[0]

  def with_scored(self, text):
    ids = np.array(_tokenize(text), np.int32)
    return ids, ids % 3 == 0


@pytest.mark.parametrize("segment", [4, 12])
def test_only_scored_tokens_count_as_targets_and_all_are_read(segment):
  whole = list(_rows(segment_length=segment, with_document_index=True))
  rows = _rows(segment_length=segment, with_document_index=True, tokenize=_EveryThird())
  for batch, other in zip(rows, whole, strict=True):
    counts = (other["targets_segmentation"] > 0) & (other["targets"] % 3 == 0)
    expected = np.where(counts, other.pop("targets_segmentation"), 0)
    np.testing.assert_array_equal(batch.pop("targets_segmentation"), expected)
    _equal([batch], [other])
  iterator = iter(rows)
  next(iterator)
  again = iter(rows)
  again.set_state(iterator.get_state())
  _equal(list(again), list(iterator))


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


def test_a_finite_row_that_has_less_text_takes_the_next_document_and_the_end_is_padded():
  batches = list(_rows((30, 4, 4, 4, 2), rows=2, with_document_index=True))
  starts = [[i.tolist()[::W] for i in batch["document_index"]] for batch in batches]
  end = [-1, -1, -1]
  # Without sizes all documents count the same.
  assert starts == [[[0, 0, 0], [1, 3, -1]], [[0, 0, 0], end], [[0, 0, 2], end], [[4, -1, -1], end]]


def test_same_seed_gives_the_same_batches_and_another_seed_others():
  arguments = {"shuffle": True, "epochs": 2}
  _equal(list(_rows(**arguments)), list(_rows(**arguments)))
  first, other = next(iter(_rows(**arguments))), next(iter(_rows(**arguments, seed=1)))
  assert not np.array_equal(first["inputs"], other["inputs"])


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


@pytest.mark.parametrize("epochs", [1, None])
@pytest.mark.parametrize("hosts", [[[0, 1, 2], [3, 4, 5]], [[5, 0], [1, 3], [4, 2]]])
def test_rows_are_the_same_whoever_reads_them(hosts, epochs):
  arguments = {"rows": 6, "shuffle": True, "epochs": epochs}
  whole = list(itertools.islice(_rows(**arguments), 9))
  for local in hosts:
    part = list(itertools.islice(_rows(**arguments, local_rows=local), 9))
    for batch, mine in zip(whole, part, strict=False):
      for key in batch:
        np.testing.assert_array_equal(batch[key][local], mine[key])
    assert epochs is None or not any(b["inputs"][local].any() for b in whole[len(part) :])


def test_run_goes_on_with_another_number_of_hosts():
  arguments = {"rows": 4, "shuffle": True, "epochs": None}
  before = [iter(_rows(**arguments, local_rows=local)) for local in ([0, 1], [2, 3])]
  for _ in range(5):
    for host in before:
      next(host)
  states = [json.loads(json.dumps(host.get_state())) for host in before]
  one = iter(_rows(**arguments))
  one.set_state(merge_states(states))
  for _ in range(5):
    batch, (first, second) = next(one), [next(host) for host in before]
    for key in batch:
      np.testing.assert_array_equal(batch[key], np.concatenate([first[key], second[key]]))


def test_run_goes_on_exactly_with_segments_of_another_length():
  def windows(batches):
    return np.concatenate([b["inputs"][0] for b in batches]).reshape(-1, W).tolist()

  short = _rows(rows=1)
  before = iter(short)
  head = [next(before), next(before)]
  after = iter(_rows(rows=1, segment_length=24))
  after.set_state(before.get_state())
  whole, resumed = windows(short), windows(head) + windows(after)
  assert resumed[: len(whole)] == whole
  assert not np.any(resumed[len(whole) :])


@pytest.mark.parametrize("workers", [Workers(0, 3), Workers(2, 1)])
def test_workers_change_nothing(workers):
  arguments = {"epochs": 2, "shuffle": True}
  dataset = _rows(**arguments, workers=workers)
  _equal(list(dataset), list(_rows(**arguments)))
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
    return list(_rows(source=_Broken(_source()), **how))

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

  rows = _rows(source=AllBroken(_source()), epochs=None, on_broken=lambda broken: None)
  with pytest.raises(ValueError, match="10 documents one after another are broken"):
    next(iter(rows))


@pytest.mark.parametrize(
  ("changes", "name"),
  [
    ({"rows": 4}, r"rows in the batch .* \(3\) than this run has \(4\).*melodi_restart_documents"),
    ({"window_length": 6}, r"melodi_window_length \(4\)"),
    ({"shuffle": True}, r"enable_data_shuffling \(False\)"),
    ({"seed": 1}, r"data_shuffle_seed \(0\)"),
    ({"epochs": 2}, r"num_epoch \(1\)"),
    ({"lengths": LENGTHS[:-1]}, r"number of documents \(10\)"),
  ],
)
def test_state_of_another_set_up_is_refused(changes, name):
  state = iter(_rows()).get_state()
  with pytest.raises(ValueError, match=name):
    iter(_rows(**changes)).set_state(state)


def test_state_without_a_row_is_refused():
  state = iter(_rows(local_rows=[0, 1])).get_state()
  with pytest.raises(ValueError, match="lacks row 2; a file of the checkpoint's folder `iter`"):
    iter(_rows()).set_state(state)


def test_state_of_another_tokenizer_is_refused():
  iterator = iter(_rows())
  next(iterator)
  other = _rows()
  other.ahead.reader.tokenize = lambda text: [1, *_tokenize(text)]
  with pytest.raises(ValueError, match="same files and tokenizer"):
    iter(other).set_state(iterator.get_state())


@pytest.mark.parametrize("batches", [1, 2], ids=["in a document", "between two"])
@pytest.mark.parametrize("epochs", [2, None])
def test_a_row_does_not_go_on_in_another_document_of_equal_length(batches, epochs):
  equal = _source([24] * 5)
  before = iter(_rows(source=equal[:4], rows=1, epochs=epochs))
  for _ in range(batches):
    next(before)
  after = iter(_rows(source=equal[1:], rows=1, epochs=epochs))  # one removed, one appended
  with pytest.raises(StateMismatch, match="document 0 has another text than when the place"):
    after.set_state(before.get_state())


@pytest.mark.parametrize("name", ["sizes_fingerprint", "fingerprint"])
def test_a_row_goes_on_only_with_the_same_sizes_and_tokenizer(name):
  class Known(list):
    """Documents, or a tokenizer, of some digest."""

    digest = "a"

    def __call__(self, text):
      return _tokenize(text)

  setattr(Known, name, lambda self: self.digest)
  source = Known(_source())
  rows = _rows(source=source)
  rows.ahead.reader.tokenize = source
  state = iter(rows).get_state()
  source.digest = "b"
  other = _rows(source=source)
  other.ahead.reader.tokenize = source
  with pytest.raises(StateMismatch, match=r"another digest of the .* \(a.*\) than .* \(b"):
    iter(other).set_state(state)


def test_finite_reading_goes_on_only_with_the_same_sizes():
  sizes = np.array(LENGTHS)
  state = iter(_rows(epochs=2, sizes=sizes)).get_state()
  iter(_rows(epochs=2, sizes=sizes)).set_state(state)
  with pytest.raises(StateMismatch, match="digest of the sizes of files and documents"):
    iter(_rows(epochs=2, sizes=sizes[::-1])).set_state(state)


def test_place_of_an_older_version_goes_on_and_says_that_it_could_not_be_checked(caplog):
  rows = _rows(epochs=2)
  before = iter(rows)
  for _ in range(2):
    next(before)
  old: Any = before.get_state()
  for name in ("sizes", "tokenizer", "special_tokens"):
    del old["fingerprint"][name]
  for row in old["rows"].values():
    del row["read"]
  del old["digest"]
  after = iter(rows)
  with caplog.at_level("WARNING"):
    after.set_state(merge_states([old]))
  assert len(caplog.messages) == 1
  assert "saved by an older version, so it could not be checked" in caplog.text
  _equal(list(after), list(before))


def test_a_changed_byte_of_a_saved_place_is_noticed():
  iterator = iter(_rows())
  next(iterator)
  text = json.dumps(iterator.get_state())
  merge_states([json.loads(text)])
  for at, letter in enumerate(text):
    if letter.isdigit():
      other = text[:at] + str((int(letter) + 1) % 10) + text[at + 1 :]
      with pytest.raises(BrokenPlace, match=r"digest|beyond"):
        merge_states([json.loads(other)])


@pytest.mark.parametrize(
  "state",
  [
    None,
    [],
    {"fingerprint": {}},
    {"fingerprint": {}, "rows": {"0": {"k": 1}}},
    {"fingerprint": {}, "rows": {"0": {"k": 1, "offset": 9, "tokens": 8}}},
  ],
)
def test_what_is_no_place_is_refused(state):
  with pytest.raises(BrokenPlace):
    merge_states([state])


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
    _rows(**changes)


def test_positions_of_a_document_without_end_stay_positive():
  """Position 0 empties memory, and past 2^31 tokens an int32 would come back to it."""
  iterator = iter(_rows(rows=1))
  batch, last = iterator.empty_batch(), 2**31 - 1
  tokens = np.broadcast_to(np.int32(7), last + 20)
  _write(batch, 0, 0, 1, OpenDocument(0, tokens, last - 3), last + T - 3)
  expected = [last - 3, last - 2, last - 1, *[last] * (T - 3)]
  assert batch["inputs_position"][0].tolist() == expected
  assert batch["targets_position"][0].tolist() == expected


def test_document_of_one_token_is_named():
  with pytest.raises(ValueError, match="document 1 has 1 token, and 2 are needed"):
    list(_rows((4, 1)))
