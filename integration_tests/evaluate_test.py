"""Evaluation through MaxText's model: every token once, memory carried, rows of no consequence."""

import os
import pathlib

import pytest

from integration_tests import running
from integration_tests.saved_model import one_device
from integration_tests.saved_runs import EQUAL_LAYERS
from melodi_plugin.cli.main import main
from melodi_plugin.errors import UserError
from melodi_plugin.evaluation import evaluate, report

LENGTHS = [150, 40, 333, 7, 64, 65, 210, 96, 31, 128]
REPORT = {"report.md", "report.csv", "by_position.png", "per_document.png"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> pathlib.Path:
  """A folder with the checkpoints of steps 0 and 1, and a config that reads ten small documents."""
  folder = tmp_path_factory.mktemp("evaluate")
  keys = running.TINY | running.MELODI | EQUAL_LAYERS
  keys |= running.documents_config(folder, LENGTHS)
  keys |= {"grain_eval_files": keys["grain_train_files"], "base_output_directory": str(folder)}
  keys |= {"enable_checkpointing": True, "checkpoint_period": 1, "steps": 2}
  keys |= {"grain_worker_count_eval": 0}
  running.train(str(running.write_yaml(folder / "train.yml", **keys, learning_rate=0.01)))
  del keys["grain_train_files"]
  running.write_yaml(folder / "own.yml", **keys)
  return folder


def read(trained, *argv, step="1"):
  """What `evaluation.json` holds for one checkpoint, read on eight devices."""
  with running.maxtext_process():
    path = f"load_parameters_path={trained}/tiny/checkpoints/{step}/items"
    config = evaluate.evaluation_config(["", str(trained / "own.yml"), path, *argv])
    return evaluate.evaluate_config(config)


@pytest.fixture(scope="module")
def carried(trained):
  """Eight rows, one on each device."""
  return read(trained)[0]


@pytest.fixture(scope="module")
def control(trained):
  return read(trained, "melodi_reset_every_window=true")[0]


def by_id(result, key="perplexity"):
  return {document["id"]: document[key] for document in result["documents"]}


def tokens_of(document: pathlib.Path) -> int:
  import sentencepiece

  model = str(document.parents[1] / "tokenizer.model")
  tokenizer = sentencepiece.SentencePieceProcessor(model_file=model, add_bos=True, add_eos=True)
  return len(tokenizer.encode(document.read_text()))


def test_every_token_but_the_first_is_scored_once(trained, carried):
  files = sorted((trained / "documents").iterdir())
  assert by_id(carried, "tokens") == {file.name: tokens_of(file) - 1 for file in files}
  assert carried["tokens"] == sum(by_id(carried, "tokens").values())
  assert carried["words"] == sum(len(file.read_text().split()) for file in files)
  assert carried["bytes"] == sum(file.stat().st_size for file in files)
  assert carried["not_finite"] == [] and carried["skipped"] == 0


# Of one device, as MaxText counts eight; 16 are more than there are documents.
@pytest.mark.parametrize("rows", [3, *(pytest.param(n, marks=pytest.mark.broad) for n in (1, 16))])
def test_rows_order_and_devices_are_of_no_consequence(trained, carried, tmp_path, rows):
  renamed = tmp_path / "renamed"
  renamed.mkdir()
  for index, file in enumerate(sorted((trained / "documents").iterdir(), reverse=True)):
    os.link(file, renamed / f"{index}_{file.name}")
  keys = [f"per_device_batch_size={rows / 8 if rows < 8 else rows // 4}"]
  with running.maxtext_process(), one_device():
    (found,) = read(trained, *keys, f"grain_eval_files={renamed}")
  for document in found["documents"]:
    document["id"] = document["id"].split("_")[1]
  assert (found["utilisation"]["rows"], carried["utilisation"]["rows"]) == (rows, 8)
  assert by_id(found) == pytest.approx(by_id(carried), rel=1e-6)
  assert by_id(found, "tokens") == by_id(carried, "tokens")
  assert found["perplexity"] == pytest.approx(carried["perplexity"], rel=1e-6)
  assert found["interval"] is not None
  if rows < 8:
    assert found["utilisation"]["share"] > carried["utilisation"]["share"]
    assert rows == 1 or found["utilisation"]["share"] > found["utilisation"]["padded_share"]


def test_memory_is_carried_and_the_control_forgets_it(carried, control):
  assert (carried["memory"], control["memory"]) == ("carried", "reset at every window")
  assert control["tokens"] == carried["tokens"]
  lengths = by_id(carried, "tokens")
  shortest, longest = (choose(lengths, key=lengths.get) for choose in (min, max))
  # A document of one window has nothing to forget, and neither has any in its first window.
  assert by_id(control)[shortest] == pytest.approx(by_id(carried)[shortest], rel=1e-6)
  assert by_id(control)[longest] != pytest.approx(by_id(carried)[longest], rel=1e-4)
  first, later = ([r["positions"][n]["nats"] for r in (control, carried)] for n in (0, 1))
  assert first[0] == pytest.approx(first[1], rel=1e-6)
  assert later[0] != pytest.approx(later[1], rel=1e-5)


@pytest.mark.broad  # of the pictures and tables in report_test
def test_several_checkpoints_are_read_in_turn_and_the_report_shows_all(trained, carried, capsys):
  with running.maxtext_process():
    path = f"load_parameters_path={trained}/tiny/checkpoints/*/items"
    assert main(["evaluate", str(trained / "own.yml"), path]) == 0
    both = report.read_evaluations(str(trained / "tiny" / "evaluation.json"))
    control = evaluate.evaluate(
      ["", str(trained / "own.yml"), path, "melodi_reset_every_window=true"]
    )
  assert [evaluation["step"] for evaluation in both] == ["0", "1"]
  assert by_id(both[1]) == pytest.approx(by_id(carried), rel=1e-6)
  assert both[0]["perplexity"] != pytest.approx(both[1]["perplexity"], rel=1e-6)
  assert len(control) == 2
  assert {path.name for path in (trained / "tiny").iterdir()} >= REPORT
  text = (trained / "tiny" / "report.md").read_text()
  for label in ("step 0, memory carried", "step 1, memory reset at every window"):
    assert label in text
  assert "out of distribution" in capsys.readouterr().out


@pytest.mark.broad
def test_the_model_is_compiled_once(trained):
  with running.maxtext_process():
    from melodi_plugin.evaluation.reading import Scorer
    from melodi_plugin.maxtext.pipeline import make_document_batches
    from melodi_plugin.maxtext.weights import find_checkpoints

    checkpoints = find_checkpoints(f"{trained}/tiny/checkpoints/*")
    path = f"load_parameters_path={checkpoints[0]}"
    config = evaluate.evaluation_config(["", str(trained / "own.yml"), path])
    batches = make_document_batches(config, config.grain_eval_files, rows=8)
    scorer = Scorer(config, rows=batches.order.rows)
    programs = scorer._reader._step._cache_size()  # of other tests
    first = {d.index: d for d in scorer.score(batches)}
    scorer.change_checkpoint(checkpoints[1])
    second = {d.index: d for d in scorer.score(batches)}
    scorer.change_checkpoint(checkpoints[0])
    again = {d.index: d for d in scorer.score(batches)}
  assert scorer._reader._step._cache_size() == programs + 1
  for index, document in first.items():
    assert (document.nats == again[index].nats).all() and (document.hits == again[index].hits).all()
    assert (document.nats != second[index].nats).any()
    assert len(document.tokens) == len(document.nats) + 1 == len(document.hits) + 1


def test_without_documents_there_is_nothing_to_read(tmp_path):
  file = running.write_yaml(tmp_path / "own.yml", **(running.TINY | running.MELODI))
  with running.maxtext_process(), pytest.raises(UserError, match="grain_eval_files is not set"):
    evaluate.evaluate(["", str(file), "load_parameters_path=somewhere"])


BAD = [
  ([], "load_parameters_path is not set"),
  (["load_parameters_path=nowhere/items"], "there is no checkpoint nowhere/items"),
  (["load_parameters_path={trained}/documents"], "is not a checkpoint of MaxText's"),
  (["load_parameters_path={trained}/tiny/checkpoints"], "is not a checkpoint of MaxText's"),
  (["load_parameters_path={items}", "base_emb_dim=64"], "holds another model"),
  (["load_parameters_path={items}", "base_num_decoder_layers=5"], "is missing"),
  (["load_parameters_path={items}", "grain_eval_files=nowhere"], "nowhere"),
  (["load_parameters_path={items}", "base_output_directory={trained}/own.yml"], "own.yml/"),
  (["load_parameters_path={items}", "ici_tensor_parallelism=7"], "; change the keys ici_*_para"),
  (["load_parameters_path={items}", "grain_eval_files={trained}/one.txt"], "one.txt"),
]


@pytest.mark.parametrize(("argv", "words"), BAD, ids=[words for _, words in BAD])
def test_what_cannot_be_evaluated_ends_with_a_sentence(trained, argv, words):
  (trained / "one.txt").write_text(" \n")  # a broken document
  places = {"trained": trained, "items": f"{trained}/tiny/checkpoints/1/items"}
  argv = [argument.format(**places) for argument in argv]
  with running.maxtext_process(), pytest.raises(UserError) as end:
    evaluate.evaluate(["", str(trained / "own.yml"), *argv])
  assert words in str(end.value)


def test_another_model_is_refused_before_memory_is_allocated(trained, monkeypatch):
  with running.maxtext_process():
    from maxtext.utils import model_creation_utils

    from melodi_plugin.maxtext.launch import load_config
    from melodi_plugin.maxtext.loading import load, mesh_of

    config = load_config(["", str(trained / "train.yml"), "base_emb_dim=64"])
    monkeypatch.setattr(model_creation_utils, "from_pretrained", None)
    with pytest.raises(
      ValueError, match=r"decoder_norm/scale is \(32,\) in the checkpoint and \(64,"
    ):
      load(config, mesh_of(config), f"{trained}/tiny/checkpoints/1/items")
