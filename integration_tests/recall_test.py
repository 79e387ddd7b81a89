"""The probes of `melodi evaluate` that ask long texts of the user's, run as the command.

uv run pytest -n0 -m slow integration_tests/recall_test.py
"""

import json
import pathlib

import numpy as np
import pytest
from flax import nnx

from integration_tests import running
from integration_tests.saved_model import one_device, randomize
from melodi_plugin.cli.main import main
from melodi_plugin.data.corpus import corpus_tokenizer

pytestmark = pytest.mark.slow
WORDS = (
  "stone river garden silver kitchen window morning letter shadow candle winter summer bridge "
  "valley forest harbor island market castle village teacher doctor farmer soldier captain "
  "painter mirror basket ladder hammer bottle blanket curtain pillow carpet"
)


def text(seed: int) -> str:
  """Sentences that are all different, with a definition and its uses."""
  random = np.random.default_rng(seed)
  said = [" ".join(random.choice(WORDS.split(), 6)).capitalize() + "." for _ in range(40)]
  said[3] = f"let LEMMA_{seed}_X = prove it."
  for place in (9, 20, 39):
    said[place] = f"by LEMMA_{seed}_X we go."
  return "\n".join(said)


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory):
  """Runs `evaluate` with keys on a checkpoint; returns status, and the folder of the run."""
  folder = tmp_path_factory.mktemp("recall")
  (folder / "documents").mkdir()
  for seed in range(3):
    (folder / "documents" / f"{seed}.txt").write_text(text(seed))
  spelled = text(0) + "0123456789-.,:='?! " + "".join(map(chr, range(33, 127)))
  model = corpus_tokenizer.train([spelled + "\n"] * 9, vocab_size=400).model or b""
  (folder / "tokenizer.model").write_bytes(model)
  with running.maxtext_process(), one_device():
    from melodi_plugin.maxtext import loading

    own = {"tokenizer_path": f"{folder}/tokenizer.model", "tokenizer_type": "sentencepiece"}
    own |= {"base_output_directory": str(folder), "grain_worker_count_eval": 0, "vocab_size": 400}
    own |= {"grain_eval_files": f"{folder}/documents"}
    yaml = str(running.write_yaml(folder / "own.yml", **(running.TINY | running.MELODI | own)))
    config = running.initialize_only(yaml, "dataset_type=synthetic")
    built, _ = loading.new_model(config)
    randomize(built)
    items = loading.write_params(config, "checkpoints/0", nnx.state(built, nnx.Param))

    def run(*keys: str) -> tuple[int, pathlib.Path]:
      words = ["evaluate", yaml, f"load_parameters_path={items}", *keys]
      return main(words), folder / "tiny"

    yield run


@pytest.mark.parametrize("probe", ["ruler", "babilong"])
def test_suites_ask_every_task_at_every_length(run, probe):
  keys = ["melodi_probe_lengths=400,1200", "melodi_probe_texts=2", "melodi_probe_writes=true"]
  status, folder = run(f"melodi_probe={probe}", *keys)
  assert status == 0
  found = json.loads((folder / f"probe_{probe}.json").read_text())
  assert found["tokens"] == found["tokens_read"] > 0
  tasks = {(row["task"], row["length"]) for row in found["tasks"]}
  count = {"ruler": 11, "babilong": 5}[probe]
  assert len({task for task, length in tasks if length == 1200}) == count
  assert len(tasks) + len(found["too_short"]) == 2 * count
  for row in found["tasks"]:
    assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 and row["written"] is not None
  assert found["points"][-1]["from"] > 16
  for ending in (".md", ".csv", ".png", "_tasks.csv", "_tasks.png"):
    assert (folder / f"probe_{probe}{ending}").exists()


def test_without_memory_the_result_says_how_little_was_read(run):
  keys = ["melodi_probe_lengths=600", "melodi_probe_texts=1", "melodi_probe_tasks=qa1"]
  status, folder = run("melodi_probe=babilong", *keys, "melodi_reset_every_window=true")
  assert status == 0
  found = json.loads((folder / "probe_babilong_reset_every_window.json").read_text())
  assert found["tokens_read"] < 64 < found["tokens"]
  assert "tokens read" in (folder / "probe_babilong_reset_every_window.md").read_text()


def test_new_names_are_read_with_memory_and_without(run):
  status, folder = run("melodi_probe=new_names")
  assert status == 0
  found = json.loads((folder / "probe_new_names.json").read_text())
  assert found["tokens"] == found["tokens_read"] and found["documents"] == 3
  assert found["first_use"]["count"] == 3 and sum(p["count"] for p in found["points"]) == 9
  assert found["points"][0]["from"] > 0 and abs(found["points"][0]["gain"]) > 1e-4
  assert (folder / "probe_new_names_gain.png").exists()


def test_tokens_that_need_far_context_are_found_by_a_judge(run, capsys):
  _, folder = run("melodi_write_losses=true")
  with np.load(folder / "losses.npz") as found:
    own = dict(found)
  # A judge for whom every seventh token needs far context.
  key = np.arange(len(own["nats"])) % 7 == 0
  for name, nats in (("long", np.where(key, 0.5, 3.0)), ("short", np.full(len(key), 3.0))):
    np.savez(folder / f"{name}.npz", **(own | {"nats": nats.astype(np.float32)}))
  judge = f"melodi_judge={folder}/long.npz,{folder}/short.npz"
  assert run("melodi_probe=longppl", judge)[0] == 0
  result = json.loads((folder / "probe_longppl.json").read_text())
  assert result["key_tokens"] == key.sum() and result["scored_tokens"] == len(key)
  assert result["longppl"] == pytest.approx(np.exp(own["nats"][key].mean()), rel=1e-5)
  assert result["longppl_without_memory"] != pytest.approx(result["longppl"], rel=1e-4)
  assert sum(point["count"] for point in result["points"]) == key.sum()
  # A model that has learned nothing finds no such token.
  for keys, words in (([], "finds no token"), (["melodi_judge=a.npz"], "does not name two files")):
    assert run("melodi_probe=longppl", *keys)[0] == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
  ("keys", "words"),
  [
    (["melodi_probe_tasks=qa9"], "names qa9, which is no task of the probe ruler"),
    (["melodi_probe_lengths=many"], "is not a list of numbers of tokens"),
    (["melodi_probe_lengths=40"], "no task of the probe ruler fits into 40 tokens"),
    (["grain_eval_files=''"], "grain_eval_files is not set"),
  ],
)
def test_what_cannot_be_asked_is_a_sentence(run, capsys, keys, words):
  assert run("melodi_probe=ruler", *keys)[0] == 2
  assert words in capsys.readouterr().err
