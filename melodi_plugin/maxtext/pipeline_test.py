"""The rows under MaxText's own iterator and tokenizer classes."""

import json
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.maxtext import pipeline
from melodi_plugin.testing.files import chats
from melodi_plugin.testing.files.rows import TALKS, TEXTS, take


def _batch_sharding(mesh):
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


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
  tokenize = Tokenizer(config)
  assert targets.tolist() == [len(tokenize(text)) - 1 for text in TEXTS[:3]]
  assert [document.id for document in batches.source] == ["d0", "d1", "d2"]


def test_stock_decoder_trains_on_the_same_batches_with_positions_of_its_own(config, mesh):
  batches = take(pipeline.make_train_iterator(config, mesh, [0]), 9)
  config.decoder_block = "llama2"
  stock = take(pipeline.make_train_iterator(config, mesh, [0]), 9)
  goes_on = False
  for one, other in zip(batches, stock, strict=True):
    for key in one.keys() - {"inputs_position", "targets_position"}:
      assert np.asarray(one[key]).tobytes() == np.asarray(other[key]).tobytes(), key
    positions = np.asarray(other["inputs_position"])
    assert not positions[:, 0].any() and positions.max() < 8
    goes_on |= bool(np.asarray(one["inputs_position"])[:, 0].any())
  assert goes_on  # where memory's positions do not begin at 0


@pytest.mark.parametrize("overlapping, new", [(False, 8), (True, 4)])
def test_stock_decoder_is_given_every_document_from_the_start_of_a_row(config, overlapping, new):
  memory = list(pipeline.make_document_batches(config, config.grain_eval_files, rows=2))
  config.decoder_block, config.melodi_overlapping_chunks = "llama2", overlapping
  stock = list(pipeline.make_document_batches(config, config.grain_eval_files, rows=2))
  assert {batch["inputs"].shape for batch in stock} == {(2, new)}
  assert _targets(stock) == _targets(memory)
  for batch in stock:
    assert batch["inputs_segmentation"].max() == 1


def _targets(batches):
  """Document, position, row and token of all that is scored."""
  found = []
  for batch in batches:
    for row, t in np.argwhere(batch["targets_segmentation"] > 0):
      keys = ("document_index", "inputs_position", "targets")
      found.append((int(row), *(int(batch[key][row, t]) for key in keys)))
  return sorted(found)


def test_chunks_overlap_by_whole_tokens(config):
  config.decoder_block, config.melodi_overlapping_chunks = "llama2", True
  config.max_target_length = 9
  with pytest.raises(ValueError, match="max_target_length=9 is odd; make it even"):
    pipeline.make_document_batches(config, config.grain_eval_files, rows=2)


@pytest.mark.parametrize(
  "rows, used",
  [(2, 2), (8, 8), (16, 8), (12, 12)],  # on eight devices; three documents
)
def test_document_batches_have_no_more_rows_than_documents_need(config, rows, used):
  batches = pipeline.make_document_batches(config, config.grain_eval_files, rows=rows)
  assert batches.order.rows == used
  assert sum(int((b["targets_segmentation"] > 0).sum()) for b in batches) == sum(
    len(Tokenizer(config)(text)) - 1 for text in TEXTS[:3]
  )


def test_processes_that_read_other_files_are_refused(config, mesh, monkeypatch):
  """Of two processes the other one has the same documents in another order."""
  dataset: Any = pipeline.make_train_iterator(config, mesh, [0]).local_iterator
  own = dataset.dataset.fingerprint()
  others = [own | {"sizes": "other"}]

  def gather(array):
    rows = [np.frombuffer(json.dumps(other).encode(), np.uint8) for other in [own, *others]]
    return np.stack([np.pad(row, (0, len(array) - len(row))) for row in rows])

  monkeypatch.setattr(pipeline.jax, "process_count", lambda: 2)
  monkeypatch.setattr(pipeline.multihost_utils, "process_allgather", gather)
  with pytest.raises(ValueError, match="do not have the same digest of the sizes of files and"):
    pipeline.make_train_iterator(config, mesh, [0])
  others[0] = own
  pipeline.make_train_iterator(config, mesh, [0])


def test_rows_of_a_process_are_those_of_its_devices():
  mesh = jax.make_mesh((2, 4), ("data", "tensor"))
  assert pipeline.local_rows(mesh, 16) == list(range(16))
  turned = jax.sharding.Mesh(mesh.devices[::-1], mesh.axis_names)
  assert sorted(pipeline.local_rows(turned, 16)) == list(range(16))
  places = {d: s[0] for d, s in _batch_sharding(turned).devices_indices_map((16,)).items()}
  expected = [row for d in turned.local_devices for row in range(16)[places[d]]]
  assert pipeline.local_rows(turned, 16) == expected


def test_broken_documents_are_listed_once_and_left_out(config, mesh, tmp_path):
  with open(config.grain_train_files, "a") as file:
    file.write('\n{"id": "no text"}\n{"id": "fine", "text": "a dog"}\n')
  with pytest.raises(BrokenDocument, match=r"train\.jsonl:7"):
    pipeline.make_train_iterator(config, mesh, [0])
  config.melodi_skip_broken_documents = True
  for _ in range(2):
    iterator = pipeline.make_train_iterator(config, mesh, [0])
    assert iterator.local_iterator.dataset.order.documents == len(TEXTS) + 1
  lines = (tmp_path / "runs" / "run" / "skipped_documents.jsonl").read_text().splitlines()
  assert len(lines) == 1
  assert json.loads(lines[0])["where"].endswith("train.jsonl:7")


@pytest.mark.parametrize(
  ("key", "value", "sentence"),
  [
    ("vocab_size", 260, "but vocab_size is 260"),
    ("expansion_factor_real_data", 2.0, "expansion_factor_real_data=2.0 does not work"),
    ("global_batch_size_to_train_on", 1, "2 rows are loaded but only 1 are used"),
    ("melodi_window_length", 3, "not a multiple of window_length 3"),
    ("grain_train_files", "", "''"),
    ("train_data_columns", ["text", "more"], "name the one field that holds the text"),
  ],
)
def test_what_does_not_fit_is_refused_before_training(config, mesh, key, value, sentence):
  setattr(config, key, value)
  with pytest.raises(ValueError, match=sentence):
    pipeline.make_train_iterator(config, mesh, [0])


def _aimed(batches):
  """How often every token is a target that counts."""
  counts = np.zeros(16, int)
  for batch in batches:
    np.add.at(counts, batch["targets"], batch["targets_segmentation"] > 0)
  names = [*chats.SPECIAL, *"abcdefghij ", "<unk>"]
  return {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}


def test_answers_and_their_ends_are_the_targets_of_conversations(talks, mesh):
  (*batches,) = pipeline.make_eval_iterator(talks, mesh, [0])
  expected = {"d": 1, "e": 2, "g": 3, "h": 2, "j": 2, "<|end|>": 5}
  assert _aimed(batches) == expected
  read = sum(int((batch["inputs_segmentation"] > 0).sum()) for batch in batches)
  # A message has a token of its role, one of its end and one of each of its characters.
  assert read == sum(2 + len(message["content"]) for talk in TALKS for message in talk)
  talks.sft_train_on_completion_only = False
  everything = _aimed(pipeline.make_eval_iterator(talks, mesh, [0]))
  assert sum(everything.values()) == read - len(TALKS) and "<|user|>" in everything


def test_evaluation_gets_every_token_of_conversations_as_a_target(talks):
  batches = pipeline.make_document_batches(talks, talks.grain_eval_files, rows=2)
  tokens = sum(2 + len(message["content"]) for talk in TALKS for message in talk)
  assert sum(_aimed(batches).values()) == tokens - len(TALKS)


def test_conversations_that_cannot_be_read_end_with_a_sentence(talks, mesh, tmp_path):
  talks.tokenizer_path = str(chats.write_chat_tokenizer(tmp_path / "plain", template=None))
  with pytest.raises(ValueError, match="has no chat template; set chat_template or"):
    pipeline.make_train_iterator(talks, mesh, [0])
  talks.chat_template = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    + chats.TEMPLATE
  )
  words = r"talks\.jsonl:2 is no conversation to learn from: the chat template cannot render these"
  with pytest.raises(BrokenDocument, match=rf"{words} messages \(No system\); give it"):
    list(pipeline.make_eval_iterator(talks, mesh, [0]))
  talks.melodi_skip_broken_documents = True
  assert _aimed(pipeline.make_eval_iterator(talks, mesh, [0]))["<|end|>"] == 4
  talks.train_data_columns = ["prompt", "completion"]
  with pytest.raises(ValueError, match=r"or its messages with use_sft, not \['prompt'"):
    pipeline.make_train_iterator(talks, mesh, [0])
