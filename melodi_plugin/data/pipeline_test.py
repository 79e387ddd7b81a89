"""The rows under MaxText's own iterator, tokenizer and checkpoint classes."""

import io
import itertools
import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import sentencepiece
from maxtext.common import grain_utility
from orbax.checkpoint import v1 as ocp

from melodi_plugin.data import pipeline

TEXTS = ["the cat sat on the mat", "a dog", "the dog sat on the cat and the cat sat on the dog"] * 2


@pytest.fixture(name="config")
def _config(tmp_path):
  lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(TEXTS)]
  (tmp_path / "train.jsonl").write_text("\n".join(lines))
  (tmp_path / "eval.jsonl").write_text("\n".join(lines[:3]))
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS),
    model_writer=model,
    vocab_size=300,
    model_type="bpe",
    byte_fallback=True,
    minloglevel=2,
    hard_vocab_limit=False,
  )
  (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
  return SimpleNamespace(
    grain_train_files=str(tmp_path / "train.jsonl"),
    grain_eval_files=str(tmp_path / "eval.jsonl"),
    tokenizer_path=str(tmp_path / "tokenizer.model"),
    tokenizer_type="sentencepiece",
    add_bos=True,
    add_eos=True,
    hf_access_token="",
    vocab_size=300,
    max_target_length=8,
    melodi_window_length=4,
    global_batch_size_to_load=2,
    global_batch_size_to_train_on=2,
    global_batch_size_to_load_eval=2,
    global_batch_size_to_eval_on=2,
    enable_data_shuffling=True,
    data_shuffle_seed=3,
    num_epoch=1,
    generate_padding_batch_train=False,
    generate_padding_batch_eval=False,
    expansion_factor_real_data=-1.0,
    enable_rampup_batch_size=False,
    colocated_python_data_input=False,
    grain_use_elastic_iterator=False,
    grain_train_mixture_config_path="",
    tokenize_train_data=True,
    tokenize_eval_data=True,
  )


@pytest.fixture(name="mesh")
def _mesh():
  return jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])


def _take(iterator, count):
  return [jax.tree.map(np.asarray, next(iterator)) for _ in range(count)]


def test_training_goes_on_past_an_epoch_and_resumes_from_maxtexts_checkpoint(
  config, mesh, tmp_path
):
  iterator = pipeline.make_train_iterator(config, mesh, [0])
  _take(iterator, 7)
  (tmp_path / "run").mkdir()
  ocp.save_checkpointables(
    tmp_path / "run" / "7", {"iter": grain_utility.for_save(7, iterator, -1)}
  )
  expected = _take(iterator, 20)
  local: Any = iterator.local_iterator
  assert local.get_state()["epoch"] > 0

  fresh = pipeline.make_train_iterator(config, mesh, [0])
  manager = SimpleNamespace(directory=tmp_path / "run")
  ocp.load_checkpointables(
    tmp_path / "run" / "7", {"iter": grain_utility.for_restore(manager, 7, fresh, -1)}
  )
  for batch, other in zip(_take(fresh, 20), expected, strict=True):
    jax.tree.map(np.testing.assert_array_equal, batch, other)


def test_larger_num_epoch_ends_after_that_many(config, mesh):
  config.num_epoch = 3
  batches = list(pipeline.make_train_iterator(config, mesh, [0]))
  starts = sum(int((np.asarray(batch["inputs"]) == 1).sum()) for batch in batches)
  assert starts == 3 * len(TEXTS)


def test_eval_is_in_order_finite_and_starts_again_after_reset(config, mesh):
  iterator = pipeline.make_eval_iterator(config, mesh, [0])
  first = list(iterator)
  iterator.reset()
  second = list(iterator)
  iterator.close()
  assert len(first) == len(second) > 1
  assert first[0]["inputs"].shape == (2, 8)
  assert np.asarray(first[0]["inputs_position"])[:, 0].tolist() == [0, 0]


def test_document_batches_name_the_document_of_every_token(config):
  batches = pipeline.make_document_batches(config, config.grain_eval_files, rows=2)
  indices = [batch["document_index"][batch["targets_segmentation"] > 0] for batch in batches]
  targets = np.bincount(np.concatenate(indices))
  tokenize = pipeline.make_tokenize(config)
  assert targets.tolist() == [len(tokenize(text)) - 1 for text in TEXTS[:3]]
  assert [document.id for document in batches.source] == ["d0", "d1", "d2"]


def test_two_processes_read_different_documents(config, mesh, monkeypatch):
  config.num_epoch = 2
  read = []
  for process in range(2):
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    iterator = pipeline.make_train_iterator(config, mesh, [0, 1])
    batches = list(itertools.islice(iterator.local_iterator, 100))
    assert batches[0]["inputs"].shape == (1, 8)
    read.append(sum(int((batch["inputs"] == 1).sum()) for batch in batches))
  assert read == [len(TEXTS), len(TEXTS)]


@pytest.mark.parametrize(
  ("key", "value", "sentence"),
  [
    ("vocab_size", 260, "but vocab_size is 260"),
    ("expansion_factor_real_data", 2.0, "expansion_factor_real_data=2.0 does not work"),
    ("global_batch_size_to_train_on", 1, "2 rows are loaded but only 1 are used"),
    ("melodi_window_length", 3, "not a multiple of window_length 3"),
    ("grain_train_files", "", "No .jsonl or .txt file matches ''"),
  ],
)
def test_what_does_not_fit_is_refused_before_training(config, mesh, key, value, sentence):
  setattr(config, key, value)
  with pytest.raises(ValueError, match=sentence):
    pipeline.make_train_iterator(config, mesh, [0])


def test_tokenizer_without_the_special_token_is_refused(config, monkeypatch):
  monkeypatch.setattr(
    pipeline.maxtext_tokenizer,
    "build_tokenizer",
    lambda *_: SimpleNamespace(encode=lambda text: [-1, 5, 6]),
  )
  with pytest.raises(ValueError, match="set add_bos=false or add_eos=false"):
    pipeline.make_tokenize(config)("text")
