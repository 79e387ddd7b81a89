"""A saved place in a batch of more rows: nothing is read twice, and nothing is left out."""

import json
from typing import Any

import numpy as np
import pytest
from etils import epath

from melodi_plugin.data.documents import Document
from melodi_plugin.data.place import can_grow, grown, read_place, row_that_goes_on
from melodi_plugin.data.rows import StickyRows

CHANCE = np.random.default_rng(0)
LENGTHS = [int(length) for length in CHANCE.integers(2, 40, 90)]


def batches_of(rows: int, **changed) -> Any:
  source: Any = [Document(f"d{i}", f"{length} {i}") for i, length in enumerate(LENGTHS)]

  def tokenize(text):
    length, index = map(int, text.split())
    return [1000 * index + place for place in range(length)]

  keys = {"segment_length": 8, "window_length": 4, "shuffle": True, "seed": 3, "epochs": None}
  return StickyRows(source, tokenize, rows=rows, with_document_index=True, **keys | changed)


def saved(rows: int, batches: int, **changed):
  """The place after some batches, and the documents begun by then."""
  iterator = iter(batches_of(rows, **changed))
  begun = [index for _ in range(batches) for index in starts(next(iterator))]
  return iterator.get_state(), begun


def starts(batch) -> list[int]:
  first = (batch["inputs_position"] == 0) & (batch["document_index"] >= 0)
  return batch["document_index"][first].tolist()


@pytest.mark.parametrize("rows, more", [(2, 4), (3, 9), (1, 5)])
@pytest.mark.parametrize("batches", [0, 1, 6])
def test_every_document_is_read_once(rows, more, batches):
  place, begun = saved(rows, batches)
  iterator = iter(batches_of(more))
  iterator.set_state(grown(place, more))
  while max(row["k"] for row in iterator.get_state()["rows"].values()) * more < len(LENGTHS):
    begun += starts(next(iterator))
  assert len(set(begun)) == len(begun) > len(LENGTHS) // 2
  order = iterator.dataset.order
  ks = [iterator.get_state()["rows"][str(row)]["k"] for row in range(more)]
  due = {order.document(row, k) for row in range(more) for k in range(ks[row])}
  assert due == set(begun)


@pytest.mark.parametrize("rows, more", [(2, 4), (3, 9)])
def test_rows_of_the_place_go_on_and_others_begin(rows, more):
  place, _ = saved(rows, 6)
  old, new = iter(batches_of(rows)), iter(batches_of(more))
  old.set_state(place)
  new.set_state(grown(place, more))
  before, after = next(old), next(new)
  from_row = [row_that_goes_on(place, row, more) for row in range(more)]
  assert sorted(row for row in from_row if row is not None) == list(range(rows))
  inside = [place["rows"][str(row)]["tokens"] > 0 for row in range(rows)]
  assert any(inside)
  for row, own in enumerate(from_row):
    if own is None:
      assert after["inputs_position"][row, 0] == 0
    elif inside[own]:
      until = np.argmin(before["document_index"][own] == before["document_index"][own, 0]) or 8
      for name in ("inputs", "inputs_position", "targets"):
        np.testing.assert_array_equal(after[name][row, :until], before[name][own, :until])


def test_a_place_grows_by_whole_factors_and_only_if_it_has_no_end():
  place, _ = saved(2, 1)
  assert [rows for rows in range(1, 9) if can_grow(place, rows)] == [4, 6, 8]
  assert not can_grow(saved(2, 1, epochs=2)[0], 4)
  del place["rows"]["1"]
  assert not can_grow(place, 4)


@pytest.mark.parametrize("batches", range(6))
def test_growing_twice_is_growing_once(batches):
  place, _ = saved(1, batches)
  assert grown(grown(place, 2), 4) == grown(place, 4)


@pytest.mark.parametrize("name", ["iter", "a[1]*?"])
def test_place_is_read_from_any_folder_and_one_that_is_not_there_is_none(tmp_path, name):
  place, _ = saved(2, 1)
  (tmp_path / name).mkdir()
  (tmp_path / name / "process_0-of-1.json").write_text(json.dumps(place))
  (tmp_path / name / "commit_success.txt").write_text("")
  assert read_place(epath.Path(tmp_path / name))["rows"] == place["rows"]
  assert read_place(epath.Path(tmp_path / "nowhere")) is None
