"""Rows go on where they were saved, under MaxText's own iterator and checkpoint classes."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from maxtext.common import grain_utility
from orbax.checkpoint import v1 as ocp

from melodi_plugin.data.place import StateMismatch
from melodi_plugin.maxtext.pipeline import make_train_iterator
from melodi_plugin.maxtext.seams.saved.restored_place import restore_place
from melodi_plugin.testing.files.rows import TEXTS, take


def test_training_goes_on_past_an_epoch_and_resumes_from_maxtexts_checkpoint(
  config, mesh, tmp_path
):
  iterator = make_train_iterator(config, mesh, [0])
  take(iterator, 7)
  (tmp_path / "run").mkdir()
  ocp.save_checkpointables(
    tmp_path / "run" / "7", {"iter": grain_utility.for_save(7, iterator, -1)}
  )
  expected = take(iterator, 20)
  local: Any = iterator.local_iterator
  assert max(row["k"] for row in local.get_state()["rows"].values()) > len(TEXTS) / 2

  fresh = make_train_iterator(config, mesh, [0])
  assert restore_place(config, fresh, epath.Path(tmp_path / "run" / "7" / "iter"))
  for batch, other in zip(take(fresh, 20), expected, strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, other)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupted_at_twenty_random_steps_is_never_interrupted(config, mesh, tmp_path, workers):
  """Every interruption is a new iterator, as in a new process; batches are equal byte by byte."""
  config.grain_worker_count = workers
  chance = np.random.default_rng(0)
  lengths = chance.integers(1, 60, 40)
  texts = [" ".join(chance.choice(["the", "cat", "sat", "dog"], n)) for n in lengths]
  lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
  (tmp_path / "train.jsonl").write_text("\n".join(lines))
  steps = 60
  through = take(make_train_iterator(config, mesh, [0]), steps)

  place, iterator = tmp_path / "process_0-of-1.json", None
  interruptions = set(chance.choice(np.arange(1, steps), 20, replace=False).tolist())
  for step in range(steps):
    if step in interruptions:
      assert iterator is not None
      place.write_text(json.dumps(iterator.local_iterator.get_state()))
      iterator.close()
      iterator = None
    if iterator is None:
      iterator = make_train_iterator(config, mesh, [0])
      assert step == 0 or restore_place(config, iterator, epath.Path(tmp_path))
    (batch,) = take(iterator, 1)
    assert batch.keys() == through[step].keys()
    for key, array in batch.items():
      assert array.tobytes() == through[step][key].tobytes(), (step, key)
  assert place.stat().st_size < 1000


def test_place_that_does_not_fit_stops_the_run_or_starts_the_documents_anew(
  config, mesh, tmp_path, caplog
):
  iterator = make_train_iterator(config, mesh, [0])
  first = take(iterator, 4)
  state = iterator.local_iterator.get_state()
  (tmp_path / "process_0-of-1.json").write_text(json.dumps(state))
  config.global_batch_size_to_load = config.global_batch_size_to_train_on = 3
  other = make_train_iterator(config, mesh, [0])
  with pytest.raises(StateMismatch, match=r"rows in the batch .* than this run has .3.*anew"):
    restore_place(config, other, epath.Path(tmp_path))
  config.melodi_restart_documents = True
  with caplog.at_level("WARNING"):
    assert not restore_place(config, other, epath.Path(tmp_path))
  assert "Documents start anew, with empty memory" in caplog.text
  (batch,) = take(other, 1)
  assert not batch["inputs_position"][:, 0].any()
  np.testing.assert_array_equal(batch["inputs"][0], first[0]["inputs"][0])


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("step", range(4))
def test_edited_file_of_as_many_documents_is_refused_whenever_it_was_saved(
  config, mesh, tmp_path, step, epochs
):
  config.num_epoch = epochs
  iterator = make_train_iterator(config, mesh, [0])
  take(iterator, step)
  (tmp_path / "process_0-of-1.json").write_text(json.dumps(iterator.local_iterator.get_state()))
  path = epath.Path(config.grain_train_files)
  path.write_text(path.read_text().replace("a dog", "a dog, and another dog"))
  other = make_train_iterator(config, mesh, [0])
  with pytest.raises(StateMismatch, match="digest of the sizes of files and documents"):
    restore_place(config, other, epath.Path(tmp_path))


def test_other_tokenizer_of_as_many_tokens_is_refused(config, mesh, tmp_path):
  iterator = make_train_iterator(config, mesh, [0])
  (tmp_path / "process_0-of-1.json").write_text(json.dumps(iterator.local_iterator.get_state()))
  path = epath.Path(config.tokenizer_path)
  path.write_bytes(path.read_bytes().replace("▁cat".encode(), "▁tac".encode()))
  other = make_train_iterator(config, mesh, [0])
  with pytest.raises(StateMismatch, match="digest of the tokenizer"):
    restore_place(config, other, epath.Path(tmp_path))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_on_conversations_goes_on_where_it_was(talks, mesh, tmp_path, workers):
  talks.grain_worker_count = workers
  iterator = make_train_iterator(talks, mesh, [0])
  take(iterator, 3)
  (tmp_path / "process_0-of-1.json").write_text(json.dumps(iterator.local_iterator.get_state()))
  expected = take(iterator, 5)
  again = make_train_iterator(talks, mesh, [0])
  assert restore_place(talks, again, epath.Path(tmp_path))
  for batch, other in zip(take(again, 5), expected, strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, other)
  talks.sft_train_on_completion_only = False
  other = make_train_iterator(talks, mesh, [0])
  with pytest.raises(StateMismatch, match="digest of the tokenizer"):
    restore_place(talks, other, epath.Path(tmp_path))


def test_memory_of_another_kind_is_refused_though_its_arrays_look_alike(config, mesh, tmp_path):
  iterator = make_train_iterator(config, mesh, [0])
  take(iterator, 1)
  place = tmp_path / "process_0-of-1.json"
  place.write_text(json.dumps(iterator.local_iterator.get_state()))
  config.melodi_long_term_pairs = True
  with pytest.raises(StateMismatch, match=r"melodi_long_term_pairs \(0, 0, false\) than .*0, true"):
    restore_place(config, make_train_iterator(config, mesh, [0]), epath.Path(tmp_path))
