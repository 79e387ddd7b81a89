"""Every command of the pages can be given as it is written.

Blocks are parsed, not run: ours by the parser of their verb, with files and keys that exist.  Every
verb is run from end to end by the test that RUN_BY names.  A command that is not ours, or needs
more than a CPU and seconds, says so in a comment above its block, as `<!-- needs network -->`.
"""

import functools
import importlib.util
import itertools
import pathlib
import re
import shlex
import tomllib

import pytest
import yaml

from integration_tests.pages import CODE, PAGES, ROOT, YAMLS, blocks, expand, missing, name
from melodi_plugin.cli.commands import COMMANDS
from melodi_plugin.config.keys import MelodiKeys

VERBS = {command.name: command for command in COMMANDS}
GROUPS = {name.split()[0] for name in VERBS if " " in name}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SOME_CONFIG = "configs/yaml/melodi_150m.yml"  # stands in for a config of the reader's own
# The tests that run a verb from end to end.
RUN_BY = {
  "train": "integration_tests/resume_test.py",
  "compile": "integration_tests/compile_test.py",
  "evaluate": "integration_tests/evaluate_test.py",
  "decode": "integration_tests/decode_test.py",
  "serve": "integration_tests/serve_test.py",
  "memorize": "integration_tests/memorize_test.py",
  "report": "melodi_plugin/evaluation/report_test.py",
  "probes": "melodi_plugin/evaluation/probes/result_test.py",
  "data build": "melodi_plugin/data/corpus/sources_test.py",
  "data shakespeare": "melodi_plugin/data/corpus/presets_test.py",
  "data mqar": "melodi_plugin/cli/verbs_test.py",
  "data recall": "melodi_plugin/cli/verbs_test.py",
  "data pg19": "melodi_plugin/data/corpus/published_test.py",
  "data arxiv-math": "melodi_plugin/data/corpus/published_test.py",
  "data c4-4k": "melodi_plugin/data/corpus/published_test.py",
  "data github-code": "melodi_plugin/data/corpus/published_test.py",
  "data padding": "melodi_plugin/cli/verbs_test.py",
  "import-gguf": "integration_tests/import_gguf_test.py",
  "graft": "integration_tests/graft_test.py",
  "gates": "melodi_plugin/checkpoints/gates_test.py",
  "verify": "integration_tests/broken_checkpoints_test.py",
  "memory": "melodi_plugin/cli/memory_test.py",
  "sizes": "integration_tests/sizes_test.py",
  "bench windows": "melodi_plugin/cli/verbs_test.py",
  "bench systems": "integration_tests/bench_systems_test.py",
  "bench compile": "integration_tests/bench_compile_test.py",
  "bench decode": "integration_tests/bench_decode_test.py",
  "bench serve": "integration_tests/bench_serve_test.py",
  "compare": "integration_tests/compare_test.py",
  "paper-configs": "melodi_plugin/cli/verbs_test.py",
}
_VERB = re.compile(r"(?:`|\buv run |Command: +|error: )melodi ([a-z][a-z-]*)")
_IN_HEADER = re.compile(r"\bmelodi ([a-z-]+)((?: (?:configs/|--|[\w.]+=)\S+)+)")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
  monkeypatch.chdir(ROOT)


@functools.cache
def known_keys() -> set[str]:
  """Keys of MaxText's base.yml, and ours."""
  (folder,) = importlib.util.find_spec("maxtext").submodule_search_locations
  base = yaml.safe_load(pathlib.Path(folder, "configs/base.yml").read_text())
  return base.keys() | MelodiKeys.model_fields.keys() | {"base_config"}


def check_keys(keys: dict[str, object]) -> None:
  """Keys are known, and values of ours are allowed."""
  assert not keys.keys() - known_keys()
  MelodiKeys.model_validate(
    {key: value for key, value in keys.items() if key.startswith("melodi_")}
  )


def written(value: str) -> object:
  """The value of key=value as YAML reads it; what the reader has to fill in is no value."""
  return None if re.search(r"[<…$]|\.\.\.", value) else yaml.safe_load(value)


def check_melodi(words: list[str]) -> None:
  """One of our commands; `words` begin with its verb."""
  verb = " ".join(words[: 2 if words[0] in GROUPS else 1])
  rest = [file for word in words[len(verb.split()) :] for file in here(word)]
  options = VERBS[verb].parser().read(rest)
  check_keys({key: written(value) for key, _, value in (k.partition("=") for k in options.keys)})


def here(word: str) -> list[str]:
  """A word as the shell would hand it on, to somebody who has a config of their own."""
  if word.startswith("configs/"):
    assert not missing(word), word
    return expand(word)
  return [SOME_CONFIG if word.endswith(".yml") and "=" not in word else word]


def check_pytest(words: list[str]) -> None:
  """Test files and functions of a run of pytest are there."""
  for path, _, test in (word.partition("::") for word in words if "/" in word):
    assert not missing(path)
    assert not test or f"def {test}(" in (ROOT / path).read_text()


def check_command(words: list[str], *, marked: bool) -> None:
  """One command: ours, a test, a script of the repository, or one whose needs are said."""
  if words[:2] == ["uv", "run"]:
    words = words[2:]
    while words[0] == "--extra":
      assert words[1] in EXTRAS
      words = words[2:]
  program, *rest = words
  if program == "melodi":
    check_melodi(rest)
  elif program == "pytest":
    check_pytest(rest)
  else:
    assert marked or (ROOT / program).is_file(), f"say above its block what {program} needs"


SHELL = [
  pytest.param(block, id=f"{name(page)}: {block.text.splitlines()[0][:40]}")
  for page in PAGES
  for block in blocks(page, "", "sh", "bash")
]


@pytest.mark.parametrize("block", SHELL)
def test_command_can_be_given_as_it_is_written(block):
  for line in block.text.replace("\\\n", " ").splitlines():
    words = shlex.split(line, comments=True)
    for joined, command in itertools.groupby(words, lambda word: word == "&&"):
      if not joined:
        check_command(list(command), marked=block.comment.startswith("needs "))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_example_of_a_verb_can_be_given(command):
  check_melodi(shlex.split(command.example)[1:])


@pytest.mark.parametrize("path", YAMLS, ids=name)
def test_commands_in_the_header_of_a_config_can_be_given(path):
  header = " ".join(
    line.strip("# ") for line in path.read_text().split("base_config:")[0].split("\n")
  )
  for verb, rest in _IN_HEADER.findall(header):
    check_melodi([verb, *(word.rstrip(",;)") for word in rest.split())])


def test_named_verbs_are_verbs():
  verbs = {command.name.split()[0] for command in COMMANDS} | {"VERB"}
  files = (*PAGES, *YAMLS, *CODE)
  named = {(name(file), verb) for file in files for verb in _VERB.findall(file.read_text())}
  assert not [(file, verb) for file, verb in named if verb not in verbs]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_of_yaml_have_keys_that_are_known(page):
  for block in blocks(page, "yaml"):
    keys = yaml.safe_load(block.text)
    own = "melodi_imports" in keys  # a module of the reader's own, which may bring keys
    check_keys({key: value for key, value in keys.items() if not own or key in known_keys()})


def test_every_verb_is_run_by_a_test():
  assert RUN_BY.keys() == VERBS.keys()
  for verb, file in RUN_BY.items():
    words = r",\s*".join(f'"{word}"' for word in verb.split())
    assert re.search(rf'(\[|"melodi_plugin",)\s*{words}', (ROOT / file).read_text()), verb


def test_every_verb_is_in_the_commands():
  page = (ROOT / "docs/commands.md").read_text()
  assert not [verb for verb in VERBS if f"<!-- melodi {verb} --help -->\n" not in page]
