"""Rows go on where they were saved, or say why they cannot."""

import json
from typing import Any

import numpy as np
import pytest

from melodi_plugin.data.place import BrokenPlace, StateMismatch, merge_states
from melodi_plugin.testing.files.numbers import (
  LENGTHS,
  W,
  assert_equal,
  rows_of,
  source_of,
  tokenize,
)


@pytest.mark.parametrize(
  "changes",
  [
    {"epochs": 2},
    {"epochs": 2, "shuffle": True, "rows": 4},
    {"window_length": 1, "rows": 1},
  ],
)
def test_resume_after_any_batch_gives_the_same_batches(changes):
  dataset = rows_of(**changes, with_document_index=True)
  iterator, batches, states = iter(dataset), [], []
  states.append(json.dumps(iterator.get_state()))
  for batch in iterator:
    batches.append(batch)
    states.append(json.dumps(iterator.get_state()))
  fresh = iter(dataset)
  for done, state in reversed(list(enumerate(states))):
    fresh.set_state(json.loads(state))
    assert json.dumps(fresh.get_state()) == state
    assert_equal(list(fresh), batches[done:])


def test_run_goes_on_with_another_number_of_hosts():
  arguments = {"rows": 4, "shuffle": True, "epochs": None}
  before = [iter(rows_of(**arguments, local_rows=local)) for local in ([0, 1], [2, 3])]
  for _ in range(5):
    for host in before:
      next(host)
  states = [json.loads(json.dumps(host.get_state())) for host in before]
  one = iter(rows_of(**arguments))
  one.set_state(merge_states(states))
  for _ in range(5):
    batch, (first, second) = next(one), [next(host) for host in before]
    for key in batch:
      np.testing.assert_array_equal(batch[key], np.concatenate([first[key], second[key]]))


def test_run_goes_on_exactly_with_segments_of_another_length():
  def windows(batches):
    return np.concatenate([b["inputs"][0] for b in batches]).reshape(-1, W).tolist()

  short = rows_of(rows=1)
  before = iter(short)
  head = [next(before), next(before)]
  after = iter(rows_of(rows=1, segment_length=24))
  after.set_state(before.get_state())
  whole, resumed = windows(short), windows(head) + windows(after)
  assert resumed[: len(whole)] == whole
  assert not np.any(resumed[len(whole) :])


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
  state = iter(rows_of()).get_state()
  with pytest.raises(ValueError, match=name):
    iter(rows_of(**changes)).set_state(state)


def test_state_without_a_row_is_refused():
  state = iter(rows_of(local_rows=[0, 1])).get_state()
  with pytest.raises(ValueError, match="lacks row 2; a file of the checkpoint's folder `iter`"):
    iter(rows_of()).set_state(state)


def test_state_of_another_tokenizer_is_refused():
  iterator = iter(rows_of())
  next(iterator)
  other = rows_of()
  other.ahead.reader.tokenize = lambda text: [1, *tokenize(text)]
  with pytest.raises(ValueError, match="same files and tokenizer"):
    iter(other).set_state(iterator.get_state())


@pytest.mark.parametrize("batches", [1, 2], ids=["in a document", "between two"])
@pytest.mark.parametrize("epochs", [2, None])
def test_a_row_does_not_go_on_in_another_document_of_equal_length(batches, epochs):
  equal = source_of([24] * 5)
  before = iter(rows_of(source=equal[:4], rows=1, epochs=epochs))
  for _ in range(batches):
    next(before)
  after = iter(rows_of(source=equal[1:], rows=1, epochs=epochs))  # one removed, one appended
  with pytest.raises(StateMismatch, match="document 0 has another text than when the place"):
    after.set_state(before.get_state())


@pytest.mark.parametrize("name", ["sizes_fingerprint", "fingerprint"])
def test_a_row_goes_on_only_with_the_same_sizes_and_tokenizer(name):
  class Known(list):
    """Documents, or a tokenizer, of some digest."""

    digest = "a"

    def __call__(self, text):
      return tokenize(text)

  setattr(Known, name, lambda self: self.digest)
  source = Known(source_of())
  rows = rows_of(source=source)
  rows.ahead.reader.tokenize = source
  state = iter(rows).get_state()
  source.digest = "b"
  other = rows_of(source=source)
  other.ahead.reader.tokenize = source
  with pytest.raises(StateMismatch, match=r"another digest of the .* \(a.*\) than .* \(b"):
    iter(other).set_state(state)


def test_finite_reading_goes_on_only_with_the_same_sizes():
  sizes = np.array(LENGTHS)
  state = iter(rows_of(epochs=2, sizes=sizes)).get_state()
  iter(rows_of(epochs=2, sizes=sizes)).set_state(state)
  with pytest.raises(StateMismatch, match="digest of the sizes of files and documents"):
    iter(rows_of(epochs=2, sizes=sizes[::-1])).set_state(state)


def test_place_of_an_older_version_goes_on_and_says_that_it_could_not_be_checked(caplog):
  rows = rows_of(epochs=2)
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
  assert_equal(list(after), list(before))


def test_a_changed_byte_of_a_saved_place_is_noticed():
  iterator = iter(rows_of())
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
