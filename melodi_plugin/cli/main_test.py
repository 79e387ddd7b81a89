"""The command line: help at once, and one sentence for what cannot be meant."""

import pathlib
import subprocess
import sys

import pytest

from melodi_plugin.cli import main as command
from melodi_plugin.cli.commands import COMMANDS, TASKS
from melodi_plugin.cli.main import main
from melodi_plugin.config.keys import MelodiKeys

HEAVY = ("jax", "numpy", "maxtext", "rich", "flax", "grain")
# All help in one process, which then says what it has imported.
ALL_HELP = f"""
import sys
from melodi_plugin.cli.commands import COMMANDS
from melodi_plugin.cli.main import main
for words in [[], *([*command.name.split(), "-h"] for command in COMMANDS)]:
  assert main(words) == 0, words
print(*({HEAVY} & sys.modules.keys()), file=sys.stderr, end="")
""".replace(str(HEAVY), repr(set(HEAVY)))


def test_help_of_every_verb_needs_neither_jax_nor_maxtext():
  done = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, "")
  for verb in COMMANDS:
    assert f"usage: melodi {verb.name} [-h]" in done.stdout and verb.example in done.stdout


def test_package_as_a_module_is_the_same_command():
  words = [sys.executable, "-m", "melodi_plugin", "trian"]
  done = subprocess.run(words, capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == "error: there is no verb trian; did you mean train?\n"


def test_verbs_are_listed_by_task(capsys):
  assert main(["--help"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line[:-1] for line in lines if line.endswith(":")] == list(TASKS)
  assert [line.strip().partition("  ")[0] for line in lines if line.startswith("  ")] == [
    verb.name for verb in COMMANDS
  ]
  assert {verb.task for verb in COMMANDS} == set(TASKS) and max(map(len, lines)) <= 100
  assert main(["data"]) == 0
  assert "data padding" in capsys.readouterr().out


def test_version_names_what_it_runs_on(capsys):
  assert main(["--version"]) == 0
  assert "maxtext 0.2.5" in capsys.readouterr().out


@pytest.mark.parametrize("verb", COMMANDS, ids=lambda verb: verb.name)
def test_example_is_read_and_the_verb_is_there(verb, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parents[2])
  program, *words = verb.example.replace("'", "").split()
  own = verb.name.split()
  assert program == "melodi" and words[: len(own)] == own
  verb.parser().read(words[len(own) :])
  assert callable(command._function(verb.target))


def test_keys_of_training_and_of_a_server_are_ours_with_what_they_mean(capsys):
  helps = {}
  for verb in ("train", "serve"):
    assert main([verb, "--help"]) == 0
    helps[verb] = " ".join(capsys.readouterr().out.split())
  for name, field in MelodiKeys.model_fields.items():
    text = helps["serve" if name.startswith("melodi_serve_") else "train"]
    assert f"{name}=" in text and " ".join(field.description.split()) in text


WRONG = [
  (["nonsense"], "there is no verb nonsense; `melodi --help` lists them."),
  (["data", "bild"], "there is no verb data bild; did you mean data build?"),
  (["train"], "the following arguments are required: cfg.yml; `melodi train --help` shows"),
  (["train", "missing.yml"], "there is no config missing.yml (looked in "),
  (["train", "model.yaml"], "model.yaml cannot be read: MaxText reads .yml only; rename it."),
  (["train", "steps"], "steps is neither a config (.yml) nor key=value."),
  (["train", "own.yml", "--stepps"], "unrecognized arguments: --stepps; `melodi train --help`"),
  (["sizes", "hf_path=other.yml"], "the following arguments are required: cfg.yml"),
  (["import-gguf", "a.gguf", "out", "own_head=maybe"], "own_head=maybe is neither true nor false."),
  (["bench", "windows", "--schedules", "rows"], "argument --schedules: invalid choice: 'rows'"),
  (["paper-configs", "own.yml"], "own.yml/"),
  (["bench", "windows", "--repeats", "0"], "argument --repeats: 0 is not a whole number above 0"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_what_cannot_be_meant_is_one_sentence_and_status_2(
  tmp_path, monkeypatch, capsys, words, sentence
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "own.yml").touch()
  assert main(words) == 2
  said = capsys.readouterr()
  assert said.out == "" and said.err.startswith(f"error: {sentence}")
  assert said.err.count("\n") == 1


def test_configs_keys_and_options_stand_in_any_order(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("a.yml", "b.yml"):
    (tmp_path / name).touch()
  parsers = {verb.name: verb.parser() for verb in COMMANDS}
  sizes = parsers["sizes"].read(["a.yml", "melodi_memory_offset=-inf", "--json", "b.yml"])
  assert (sizes.configs, sizes.keys) == (["a.yml", "b.yml"], ["melodi_memory_offset=-inf"])
  assert sizes.json
  compared = parsers["compare"].read(["seeds=0,1", "a.yml", "steps=3", "b.yml", "out=x=y"])
  assert (compared.seeds, compared.out, compared.keys) == ("0,1", "x=y", ["steps=3"])
  probes = parsers["probes"].read(["memory=a.json", "b.json", "out=x.png"])
  assert (probes.files, probes.out) == (["memory=a.json", "b.json"], "x.png")
