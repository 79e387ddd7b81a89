"""Evaluation through MaxText's model: every token once, memory carried, rows of no consequence."""

import json

import pytest

from integration_tests import running
from melodi_plugin import evaluate

LENGTHS = [150, 40, 333, 7, 64, 65, 210, 96, 31, 128]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
  """The keys that read ten small documents, as evaluation files."""
  keys = running.documents_config(tmp_path_factory.mktemp("evaluate"), LENGTHS)
  return keys | {"grain_eval_files": keys["grain_train_files"]}


def read(documents, **keys):
  """Reads the documents with the same random parameters; returns what evaluation.json holds."""
  with running.maxtext_process():
    config = running.melodi_config(**(documents | keys))
    return evaluate.summarise(evaluate.read_documents(config), config)


def perplexities(result):
  return [document["perplexity"] for document in result["documents"]]


def test_every_token_but_the_first_is_scored_once_whatever_the_rows(documents):
  one, two = read(documents), read(documents, per_device_batch_size=2)
  lengths = [document["tokens"] + 1 for document in one["documents"]]
  assert one["tokens"] == sum(lengths) - len(LENGTHS)
  assert [document["tokens"] + 1 for document in two["documents"]] == lengths
  assert perplexities(two) == pytest.approx(perplexities(one), rel=1e-5)
  assert two["nats"] == pytest.approx(one["nats"], rel=1e-6)


def test_memory_is_carried_and_the_control_forgets_it(documents):
  carried, control = read(documents), read(documents, melodi_reset_every_window=True)
  assert (carried["memory"], control["memory"]) == ("carried", "reset at every window")
  assert control["tokens"] == carried["tokens"]
  longest = max(range(len(LENGTHS)), key=lambda i: carried["documents"][i]["tokens"])
  shortest = min(range(len(LENGTHS)), key=lambda i: carried["documents"][i]["tokens"])
  # A document of one window has nothing to forget.
  assert perplexities(control)[shortest] == pytest.approx(perplexities(carried)[shortest], rel=1e-6)
  assert perplexities(control)[longest] != pytest.approx(perplexities(carried)[longest], rel=1e-4)


def test_summary_is_json_and_weighs_documents_by_tokens(documents):
  result = json.loads(json.dumps(read(documents)))
  nats = sum(document["nats"] for document in result["documents"])
  assert result["nats_per_token"] == pytest.approx(nats / result["tokens"])
  spread = result["perplexity_per_document"]
  assert spread["min"] <= spread["median"] <= spread["max"]


def test_without_a_checkpoint_the_program_ends_with_a_sentence(documents, tmp_path, capsys):
  file = running.write_yaml(tmp_path / "own.yml", **(running.TINY | running.MELODI | documents))
  with running.maxtext_process(), pytest.raises(SystemExit) as end:
    evaluate.evaluate(["", str(file)])
  assert end.value.code == 2
  assert "load_parameters_path is not set" in capsys.readouterr().err
