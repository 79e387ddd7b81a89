"""Checkpoints that are damaged: noticed, named, set aside; a run goes on from the one before."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import checkpoints, write_config
from melodi_plugin.checkpoints.verify import verify
from melodi_plugin.cli.main import main
from melodi_plugin.data.place import StateMismatch
from melodi_plugin.data.records import DocumentsError
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.errors import UserError
from melodi_plugin.maxtext import loading
from melodi_plugin.testing.cases import broad_but

BEFORE, LAST = 0, 1  # the steps of the checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A run with two checkpoints."""
  folder = tmp_path_factory.mktemp("broken")
  config = write_config(folder, checkpoint_period=1)  # its programs are those of resume_test.py
  running.train(str(config), f"steps={LAST + 1}")
  assert {path.name for path in checkpoints(folder, "tiny").iterdir()} == {str(BEFORE), str(LAST)}
  return folder


@pytest.fixture
def run(trained, tmp_path):
  """A copy of it, to be damaged."""
  shutil.copytree(trained / "out", tmp_path / "out")
  return checkpoints(tmp_path, "tiny")


def resume(trained: pathlib.Path, run: pathlib.Path, **keys) -> running.Trainer:
  """Goes on with the copy."""
  output = {"base_output_directory": str(run.parents[1]), "steps": LAST + 5}
  with running.maxtext_process():
    jax.config.update("jax_default_prng_impl", "unsafe_rbg")  # as MaxText's trainer does
    return running.Trainer(running.from_yaml(trained / "config.yml", **(output | keys)))


def arrays(items: pathlib.Path) -> list[pathlib.Path]:
  """The files in which arrays lie; which lies where differs from run to run. items/d lists them."""
  files = list(items.glob("ocdbt.process_*/d/*"))
  assert files
  return files


def place(step: pathlib.Path) -> pathlib.Path:
  """The file of the place in the documents."""
  return step / "iter" / "process_0-of-1.json"


def cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path, at: int, bit: int = 0) -> None:
  content = bytearray(path.read_bytes())
  content[at] ^= 1 << bit
  path.write_bytes(content)


def flip_arrays(items: pathlib.Path) -> None:
  for path in arrays(items):
    content = bytearray(path.read_bytes())
    for at in range(100, len(content), 700):
      content[at] ^= 1
    path.write_bytes(content)


def cut_arrays(items: pathlib.Path) -> None:
  for path in arrays(items):
    path.write_bytes(path.read_bytes()[:100])


def remove_arrays(items: pathlib.Path) -> None:
  for path in arrays(items):
    path.unlink()


def beyond(step: pathlib.Path) -> None:
  """A row is beyond the end of its document, in a checkpoint of an older version."""
  path = place(step)
  state = json.loads(path.read_text())
  row = next(row for row in state["rows"].values() if row["tokens"])
  row["offset"] = row["tokens"] + 7
  del state["digest"]
  path.write_text(json.dumps(state))


DAMAGES = {
  "arrays cut": lambda step: cut_arrays(step / "items"),
  "files of arrays gone": lambda step: remove_arrays(step / "items"),
  "bits of arrays": lambda step: flip_arrays(step / "items"),
  "place cut": lambda step: cut(place(step)),
  "place beyond the document": beyond,
  "list of arrays cut": lambda step: cut(step / "items" / "_METADATA"),
  "list of arrays gone": lambda step: (step / "items" / "_METADATA").unlink(),
  "arrays gone": lambda step: shutil.rmtree(step / "items"),
}


BROAD = ("place cut", "list of arrays cut")
SLOW = [name for name in DAMAGES if name not in ("bits of arrays", *BROAD)]


@pytest.mark.parametrize("damage", broad_but(["bits of arrays"], DAMAGES, slow=SLOW))
def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(trained, run, caplog, damage):
  DAMAGES[damage](run / str(LAST))
  with caplog.at_level("WARNING"):
    resumed = resume(trained, run)
  assert int(resumed.state["optimizer"]["step"][...]) == BEFORE + 1
  assert {path.name for path in run.iterdir()} == {str(BEFORE), f"{LAST}.broken"}
  (said,) = [message for message in caplog.messages if "is damaged" in message]
  assert f"{run}/{LAST} is damaged: " in said and "\n" not in said
  assert said.endswith(f"is {run}/{LAST}.broken now, and the run goes on from step {BEFORE}.")


def test_damaged_checkpoint_is_refused_where_a_key_says_so_or_nothing_is_before_it(trained, run):
  DAMAGES["arrays cut"](run / str(LAST))
  with pytest.raises(UserError, match="rename its folder to go on from step 0, or copy it back"):
    resume(trained, run, melodi_checkpoint_fallback=False)
  shutil.rmtree(run / str(BEFORE))
  with pytest.raises(UserError, match="there is no checkpoint before it; copy it back, or choose"):
    resume(trained, run)
  assert {path.name for path in run.iterdir()} == {str(LAST)}


def test_run_whose_place_in_the_documents_is_gone_does_not_start_them_anew_by_itself(trained, run):
  shutil.rmtree(run / str(LAST) / "iter")
  with pytest.raises(StateMismatch, match="is missing, so they would be read from the start"):
    resume(trained, run)
  resumed = resume(trained, run, melodi_restart_documents=True)
  assert int(resumed.state["optimizer"]["step"][...]) == LAST + 1
  assert not any(np.asarray(value).any() for value in resumed.memory().values())
  assert not np.asarray(resumed.loader.load_next_batch()["inputs_position"])[:, 0].any()


def test_checkpoint_is_not_to_blame_for_a_tokenizer_that_fails(trained, run, monkeypatch):
  """Or for any other fault of the documents that a run reads again when it goes on."""
  checked = Tokenizer.checked

  def fail_at_documents(self, ids):
    if len(ids) > 300:
      raise ValueError("Tokenizer tokenizer.model gives the id 99 but vocab_size is 64.")
    return checked(self, ids)

  monkeypatch.setattr(Tokenizer, "checked", fail_at_documents)
  with pytest.raises(DocumentsError, match="gives the id 99 but vocab_size is 64"):
    resume(trained, run)
  assert {path.name for path in run.iterdir()} == {str(BEFORE), str(LAST)}


@pytest.mark.broad
def test_damaged_parameters_are_a_sentence_for_whoever_reads_them(trained, run):
  items = run / str(LAST) / "items"
  flip_arrays(items)
  path = str(items)
  with running.maxtext_process():
    config = running.from_yaml(trained / "config.yml", load_parameters_path=path)
    mesh = loading.mesh_of(config)
    # Which status it is depends on which file is read first.
    words = f"{path} cannot be read: [A-Z_]+: .*; copy or write it again"
    with pytest.raises(ValueError, match=words) as error:
      loading.load(config, mesh, path)
    assert "\n" not in str(error.value)
    keys = {"run_name": "warm", "load_parameters_path": path, "steps": 1}
    with pytest.raises(UserError, match=words):
      running.Trainer(running.from_yaml(trained / "config.yml", **keys))


@pytest.mark.slow
def test_every_flipped_bit_is_noticed_or_changes_nothing(run):
  """In all files of a checkpoint, at places spread over them."""
  whole, chance = run / str(LAST), np.random.default_rng(0)
  arrays, before = running.checkpoint(whole), running.iterator_state(whole)
  assert not verify(str(whole / "items")).problem
  noticed = 0
  files = sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
  for path in files:
    size = path.stat().st_size
    for at in chance.choice(size, min(size, 1 + size // 20_000), replace=False).tolist():
      bit = int(chance.integers(8))
      flip(path, at, bit)
      if verify(str(whole / "items")).problem:
        noticed += 1
      else:
        assert running.iterator_state(whole) == before, (path, at)
        for name, array in running.checkpoint(whole).items():
          np.testing.assert_array_equal(array, arrays[name], err_msg=f"{path}, byte {at}: {name}")
      flip(path, at, bit)
  assert noticed > len(files) / 2


def test_verb_says_which_checkpoints_are_whole(run, capsys):
  assert main(["verify", str(run.parent)]) == 0
  said = capsys.readouterr().out
  assert said.count("| whole |") == 2 and said.count(" 0 |") == 2
  flip_arrays(run / str(LAST) / "items")
  assert main(["verify", str(run.parent)]) == 2
  said = capsys.readouterr()
  assert said.out.count("| damaged |") == 1
  assert said.err.startswith(f"error: 1 of 2 checkpoints are damaged; {run}/{LAST}/items: ")
