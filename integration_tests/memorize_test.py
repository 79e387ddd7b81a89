"""`melodi memorize`, run as a command, and `melodi evaluate` behind a memory file."""

import json
import random
import time

import jax
import numpy as np
import pytest

from integration_tests import running, saved_model
from integration_tests.saved_model import WINDOW, random_text
from melodi_plugin.checkpoints import memory_format
from melodi_plugin.cli.main import main
from melodi_plugin.evaluation import report
from melodi_plugin.evaluation.probes.suites.forks import Forks
from melodi_plugin.evaluation.probes.suites.questions import Question, Sample
from melodi_plugin.testing.files.records import write_array_record

LENGTHS = {"a": 40, "b": 700, "c": 7, "d": 1100, "e": 150, "f": 5 * WINDOW - 1, "g": 1}
NEAR = 1e-4
TWO_ROWS = "per_device_batch_size=0.25"  # of eight devices, as MaxText counts


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory):
  with saved_model.saved_model(tmp_path_factory.mktemp("memorize"), scores=True) as model:
    yield model


@pytest.fixture(name="documents")
def _documents(tmp_path):
  """A folder of texts by name."""
  return write(tmp_path / "documents", LENGTHS)


def write(folder, lengths):
  folder.mkdir()
  for seed, (name, length) in enumerate(lengths.items()):
    (folder / f"{name}.txt").write_text("b" + random_text(seed, length - 1))
  return folder


@pytest.fixture(name="memorize")
def _memorize(model, documents, tmp_path, capsys):
  """Runs the command with two slots; returns its status, its last line, and its errors."""

  def run(*keys, slots=2):
    own = [f"melodi_documents={documents}", f"melodi_memory_out={tmp_path}/memories"]
    status = model.run(["memorize", *own, f"melodi_slots={slots}", *keys])
    said = capsys.readouterr()
    return status, (said.out.splitlines() or [""])[-1], said.err

  return run


def alone(model, text, slots=2):
  """The state after a text that was read alone, and its last token."""
  checkpoint = model.checkpoint(slots=slots)
  ids = checkpoint.tokenizer.prompt(text)
  checkpoint.engine.read_all({slots - 1: ids[:-1]})
  return checkpoint.engine.extract(slots - 1), int(ids[-1])


def loaded(model, path, slots=2):
  return model.checkpoint(slots=slots, reset=False).load_memory(str(path))


def files(tmp_path):
  return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "memories").iterdir()}


def assert_same_bits(row, other):
  for own, leaf in zip(jax.tree.leaves(row.state), jax.tree.leaves(other.state), strict=True):
    assert own.dtype == leaf.dtype and own.tobytes() == leaf.tobytes()


def test_every_document_is_remembered_as_if_it_were_read_alone(
  model, documents, memorize, tmp_path, capsys
):
  """Bit for bit: with fewer than four slots a call reads one row, whatever the others hold."""
  status, said, _ = memorize()
  assert status == 0
  prompt = model.tokenizer.prompt
  tokens = sum(len(prompt(path.read_text())) - 1 for path in documents.iterdir())
  assert f"7 documents of {tokens:,} tokens written to {tmp_path}/memories" in said
  assert files(tmp_path).keys() == {f"{name}.txt.memory" for name in LENGTHS}
  for path in documents.iterdir():
    expected, pending = alone(model, path.read_text())
    row, saved = loaded(model, tmp_path / "memories" / f"{path.name}.memory")
    assert_same_bits(row, expected)
    assert (row.tokens, row.prefix) == (expected.tokens, expected.prefix)
    assert (saved.pending, saved.title) == ((pending,), path.name)
  assert main(["memory", f"{tmp_path}/memories/b.txt.memory"]) == 0
  shown, read = (
    " ".join(capsys.readouterr().out.split()),
    alone(model, (documents / "b.txt").read_text())[0].tokens,
  )
  assert "| title | b.txt |" in shown and f"| tokens read | {read} |" in shown
  assert f"| windows that memory holds | {(read - 1) // WINDOW} |" in shown


def test_what_is_written_is_not_read_again(model, documents, memorize, tmp_path):
  """But what is damaged, or of another text, or was written with other keys."""
  memorize()
  before = files(tmp_path)
  assert "0 documents of 0 tokens" in memorize()[1] and files(tmp_path) == before
  damaged = tmp_path / "memories" / "e.txt.memory"
  damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
  (tmp_path / "memories" / "a.txt.memory").unlink()
  last = documents / "c.txt"
  text = last.read_text()
  last.write_text(text[:-1] + ("a" if text[-1] == "b" else "b"))  # the token that is not read
  _, said, _ = memorize()
  assert said.startswith("3 documents of ") and said.endswith(", 4 were there already")
  after = files(tmp_path)
  assert {name for name in after if after[name] != before.get(name)} == {
    f"{name}.txt.memory" for name in "ace"
  }
  assert_same_bits(loaded(model, damaged)[0], alone(model, (documents / "e.txt").read_text())[0])
  assert memorize("melodi_memory_compact=true")[1].startswith("7 documents of ")


def test_broken_documents_end_the_run_or_are_listed(documents, memorize, tmp_path):
  (documents / "bad.txt").write_bytes(b"abc\xff")
  status, _, error = memorize()
  assert status == 2 and "bad.txt" in error.splitlines()[-1] and "Traceback" not in error
  status, said, _ = memorize("melodi_skip_broken_documents=true")
  assert status == 0
  assert said.startswith("7 documents of ")
  assert said.endswith("; 1 broken ones are left out, see skipped_documents.jsonl there")
  (line,) = (tmp_path / "memories" / "skipped_documents.jsonl").read_text().splitlines()
  assert json.loads(line)["where"].endswith("bad.txt")


def test_two_documents_of_one_name_do_not_share_a_file(documents, memorize, tmp_path):
  """An id shows only when an ArrayRecord is read."""
  for path in documents.iterdir():
    path.unlink()
  records = ({"id": "x/y", "text": text} for text in ("abc", "defgh"))
  write_array_record(documents / "all.array_record", *records)
  status, _, error = memorize()
  assert status == 2 and "record 2 has the id 'x/y' of " in error
  status, said, _ = memorize("melodi_skip_broken_documents=true")
  assert status == 0 and said.startswith("1 documents of 3 tokens") and "1 broken" in said
  assert files(tmp_path).keys() == {"x%2Fy.memory", "skipped_documents.jsonl"}


WRONG = {
  "nothing": (["melodi_documents="], "melodi_documents names nothing to read"),
  "no such file": (["melodi_documents=nowhere/*.txt"], "nowhere/*.txt"),
  "no folder": (["melodi_memory_out="], "melodi_memory_out is not set"),
  "no room": (["melodi_memory_out={folder}/own.yml"], "own.yml: Not a directory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_memorized_ends_with_a_sentence(model, memorize, name):
  keys, words = WRONG[name]
  status, said, error = memorize(*(key.format(folder=model.folder) for key in keys))
  assert (status, said) == (2, "")
  assert words in error and error.splitlines()[-1].startswith("error: ")
  assert "Traceback" not in error


@pytest.mark.slow  # another engine
def test_rows_that_are_read_together_differ_from_one_alone_by_rounding(model, documents, memorize):
  """Four slots: a call reads one row or four, and the two are different programs."""
  folder = documents.parent / "memories"
  memorize(slots=4)
  for path in documents.iterdir():
    expected, _ = alone(model, path.read_text(), slots=4)
    row, _ = loaded(model, folder / f"{path.name}.memory", slots=4)
    for own, leaf in zip(jax.tree.leaves(row.state), jax.tree.leaves(expected.state), strict=True):
      np.testing.assert_allclose(own, leaf, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_kill_loses_only_what_was_being_read(model, memorize, documents, tmp_path):
  """At three random moments; whatever is there is whole, and the next run does the rest."""
  for path in documents.iterdir():
    path.unlink()
  documents.rmdir()
  write(documents, {f"{number:03}": 3000 for number in range(60)})
  folder, chance = tmp_path / "memories", random.Random(0)
  keys = [f"melodi_documents={documents}", f"melodi_memory_out={folder}", "melodi_slots=2"]
  done: dict[str, int] = {}
  for _ in range(3):
    process = running.start("-m", "melodi_plugin", "memorize", *model.words, *keys, cwd=tmp_path)
    wanted = len(done) + chance.randint(1, 12)
    while process.poll() is None and len(list(folder.glob("*.memory"))) < wanted:
      time.sleep(0.01)
    time.sleep(chance.random() / 10)
    process.kill()
    process.wait()
    now = {name: when for name, when in files(tmp_path).items() if name.endswith(".memory")}
    assert wanted <= len(now)
    assert done.items() <= now.items()  # none was written again
    for name in now:
      memory_format.describe(str(folder / name))
    done = now
  assert len(done) < 60
  _, said, _ = memorize()
  assert said.startswith(f"{60 - len(done)} documents of ")
  for path in documents.iterdir():
    row, _ = loaded(model, folder / f"{path.name}.memory")
    assert_same_bits(row, alone(model, path.read_text())[0])


# -- Evaluation ------------------------------------------------------------------------------------


def test_evaluation_behind_a_memory_is_that_of_both_texts_in_one(
  model, documents, memorize, tmp_path, capsys
):
  memorize()
  memory = (documents / "b.txt").read_text()
  held_out = write(tmp_path / "held_out", {"x": 90, "y": 7, "z": 1300})
  keys = [f"grain_eval_files={held_out}", TWO_ROWS]
  assert model.run(["evaluate", *keys]) == 0
  path = f"{tmp_path}/memories/b.txt.memory"
  assert model.run(["evaluate", *keys, f"melodi_memory_file={path}"]) == 0
  run = model.folder / "tiny"
  (found,) = report.read_evaluations(str(run / "evaluation_memory_file.json"))
  assert found["memory"] == f"carried on from {path}"
  tokenizer = model.tokenizer
  before = tokenizer.prompt(memory).tolist()
  for document in found["documents"]:
    ids = tokenizer((held_out / document["id"]).read_text()).tolist()
    logprobs, _ = model.logprobs([*before, *ids])
    tail = slice(len(before), None)
    assert document["tokens"] == len(ids) - 1
    assert np.log(document["perplexity"]) == pytest.approx(-logprobs[tail].mean(), abs=NEAR)
  (plain,) = report.read_evaluations(str(run / "evaluation.json"))
  assert found["perplexity"] != pytest.approx(plain["perplexity"], rel=1e-3)
  shown = (run / "report.md").read_text()
  assert "memory carried on from" in shown and "memory carried" in shown
  assert "evaluation_memory_file.json" in capsys.readouterr().out


def test_evaluation_leaves_out_broken_documents(model, documents, memorize, tmp_path):
  memorize()
  held_out = write(tmp_path / "held_out", {"x": 90, "y": 20})
  (held_out / "bad.txt").write_bytes(b"\xff")
  keys = [f"grain_eval_files={held_out}", TWO_ROWS]
  keys += [f"melodi_memory_file={tmp_path}/memories/c.txt.memory"]
  assert model.run(["evaluate", *keys]) == 2
  assert model.run(["evaluate", *keys, "melodi_skip_broken_documents=true"]) == 0
  path = model.folder / "tiny" / "evaluation_memory_file.json"
  (found,) = report.read_evaluations(str(path))
  assert found["skipped"] == 1 and len(found["documents"]) == 2


@pytest.mark.parametrize(
  ("key", "words"),
  [
    ("melodi_reset_every_window=true", "forgets what melodi_memory_file holds"),
    ("melodi_probe=mqar", "leave melodi_memory_file out"),
    ("load_parameters_path={items},{items}", "names 2 checkpoints; name one"),
  ],
)
def test_memory_that_cannot_be_evaluated_is_a_sentence(model, documents, capsys, key, words):
  keys = [f"grain_eval_files={documents}", "melodi_memory_file=a.memory"]
  assert model.run(["evaluate", *keys, key.format(items=model.items)]) == 2
  assert words in capsys.readouterr().err


@pytest.mark.parametrize("forget", [False, pytest.param(True, marks=pytest.mark.broad)])
def test_answers_of_probes_go_on_from_what_was_read_once(model, forget):
  checkpoint = model.checkpoint(slots=2)
  forks = Forks(checkpoint.engine, checkpoint.tokenizer, forget=forget, writes=True)
  text = random_text(7, 5 * WINDOW + 6)
  question = Question(" abc", (" d", " ea"), (" jj ih", " gf"), (0, 40))
  (reading,) = forks.read([Sample(text, [question])])
  assert (reading.tokens == reading.read) == (not forget)
  (heard,) = reading.heard
  for answer, nats in zip(question.right + question.wrong, heard.right + heard.wrong, strict=True):
    ids = checkpoint.tokenizer.prompt(text + question.prompt + answer)
    # Without memory, the same as if the text had begun with the open window.
    begin = (heard.at - 1) // WINDOW * WINDOW if forget else 0
    logprobs, _ = model.logprobs(ids[begin:])
    assert nats == pytest.approx(-logprobs[heard.at - 1 - begin :].sum(), abs=2e-4)
  assert isinstance(heard.written, str)
