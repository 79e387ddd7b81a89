"""`melodi compare`: refusals, and a comparison that is stopped and goes on."""

import json
import os
import pathlib
import re
import signal
import sys
import time
import types

import pytest

from integration_tests import running
from integration_tests.pages import ROOT
from melodi_plugin.cli import compare as command
from melodi_plugin.cli.commands import COMMANDS
from melodi_plugin.cli.main import main
from melodi_plugin.compare import configs, request
from melodi_plugin.testing.comparison import SIZES

LIMIT = 1800.0  # seconds; two cores that nobody shares need a fifth of it
LENGTHS = [150, 40, 333, 7, 64, 65, 210, 96, 31, 128]
WITHOUT_MEMORY = {
  "melodi_summary_tokens": 0,
  "melodi_short_term_tokens": 0,
  "melodi_long_term_increment": 0,
}


def write_configs(folder: pathlib.Path, **other) -> tuple[str, str]:
  """memory.yml and window.yml in `folder`: the tiny model, with memory; without it, and `other`."""
  keys = running.TINY | running.MELODI | running.documents_config(folder, LENGTHS)
  keys |= {"grain_eval_files": keys["grain_train_files"], "grain_worker_count_eval": 0}
  keys |= {"per_device_batch_size": 2, "checkpoint_period": 1, "learning_rate": 0.01}
  running.write_yaml(folder / "memory.yml", **keys)
  running.write_yaml(folder / "window.yml", **(keys | WITHOUT_MEMORY | other))
  return str(folder / "memory.yml"), str(folder / "window.yml")


@pytest.fixture
def here(monkeypatch):
  """Configs are read in this process, and have sizes that nobody counts."""

  class Counted(types.SimpleNamespace):
    def _asdict(self):
      return vars(self)

  sizes = types.SimpleNamespace(sizes=lambda config: Counted(**SIZES))
  monkeypatch.setitem(sys.modules, "melodi_plugin.maxtext.sizes", sizes)
  with running.maxtext_process():
    monkeypatch.setattr(configs, "describe", lambda asked: list(map(configs.describe_here, asked)))
    yield


def ask(*words: str) -> request.Request:
  """What the command line asks for."""
  parser = next(command for command in COMMANDS if command.name == "compare").parser()
  options = parser.read(words)
  asked = (options.seeds, options.out, options.evaluate_with, options.probe)
  return request.ask(options.configs, options.keys, *asked)


REFUSED = [
  (["steps=3", "no_such_key=1"], "memory.yml: no_such_key is not a key of MaxText"),
  (["melodi_window_length=17"], "memory.yml: "),
  (["grain_eval_files=''"], "grain_eval_files is not set in"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_run_is_refused_before_anything_is(here, tmp_path, capsys, arguments, words):
  command = ["compare", *write_configs(tmp_path), f"out={tmp_path}/out", *arguments]
  assert main(command) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith("error: ") and words in said
  assert not (tmp_path / "out").exists()


def test_rows_with_another_budget_are_refused(here, tmp_path, capsys):
  memory, window = write_configs(tmp_path, steps=7, max_target_length=32)
  assert main(["compare", memory, window, f"out={tmp_path}/out"]) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  # On the eight fake devices of the tests, each with two rows.
  assert f"max_target_length) is 1024 in {memory}, 512 in {window}" in said
  assert f"steps is 150001 in {memory}, 7 in {window}" in said
  # Said for all rows, they are the same.
  asked = ask(memory, window, "steps=3", "max_target_length=64")
  first, second = command.find_rows(asked)
  assert first.settings["steps"] == second.settings["steps"] == 3
  assert first.settings["learning_rate_schedule_steps"] == 3
  assert first.settings["enable_checkpointing"] is True


@pytest.mark.parametrize(
  ("argument", "read_again"),
  [
    ("melodi_long_term_windows=8", ["memory"]),
    ("melodi_reset_every_window=true", ["memory", "window"]),
    ("melodi_memory_gate=1.5", []),  # where training starts
  ],
)
def test_only_rows_to_which_a_key_matters_are_read_again(here, tmp_path, argument, read_again):
  # The second row has a memory, but no queue.
  configs = write_configs(tmp_path, decoder_block="transformer_xl")
  found = command.find_rows(ask(*configs, "steps=3", f"evaluate_with={argument}"))
  assert [row.name for row in found if row.changed] == read_again


# -- The whole command -----------------------------------------------------------------------------


def commands(folder: pathlib.Path, run: str) -> list[str]:
  """The modules that were started for a run."""
  log = (folder / "out" / "logs" / f"{run}.log").read_text()
  return re.findall(r"^\$ \S+ -m melodi_plugin[. ](\S+)", log, re.MULTILINE)


def wait_for(path: pathlib.Path, process) -> None:
  """Until the path is there, or the process has ended."""
  until = time.monotonic() + LIMIT
  while not path.exists() and process.poll() is None and time.monotonic() < until:
    time.sleep(0.05)


def stop_at(path: pathlib.Path, process, number: signal.Signals) -> int:
  """Ends the process as soon as the path is there; returns its exit code."""
  try:
    wait_for(path, process)
    process.send_signal(number)
    return process.wait(timeout=60)
  finally:
    process.kill()


def compare(*arguments: str, cwd: pathlib.Path) -> tuple[int, str]:
  """Exit code and output; as `running.command`, but a comparison is a dozen processes."""
  process = running.start("-m", "melodi_plugin", "compare", *arguments, cwd=cwd)
  try:
    code = process.wait(timeout=LIMIT)
  finally:
    process.terminate()
    process.wait()
  return code, (cwd / "log.txt").read_text()


@pytest.mark.slow
def test_stopped_comparison_goes_on_and_runs_nothing_twice(tmp_path):
  names = [pathlib.Path(config).name for config in write_configs(tmp_path)]
  arguments = [*names, "seeds=0,1", "out=out"]
  arguments.append("evaluate_with=melodi_long_term_windows=8")
  runs = tmp_path / "out" / "runs"

  process = running.start("-m", "melodi_plugin", "compare", *arguments, "steps=3", cwd=tmp_path)
  checkpoint = runs / "window_seed0" / "checkpoints" / "0" / "items"
  code = stop_at(checkpoint, process, signal.SIGTERM)
  assert code == 128 + signal.SIGTERM, (tmp_path / "log.txt").read_text()
  finished = runs / "memory_seed0" / "result.json"
  before = finished.stat().st_mtime_ns
  assert not (runs / "window_seed0" / "result.json").exists()

  code, log = compare(*arguments, "steps=3", cwd=tmp_path)
  assert code == 0, log
  assert finished.stat().st_mtime_ns == before
  assert commands(tmp_path, "memory_seed0") == ["compare.training", "evaluate", "evaluate"]
  assert commands(tmp_path, "window_seed0") == ["compare.training"] * 2 + ["evaluate"]
  result = json.loads((runs / "window_seed0" / "result.json").read_text())
  # The line of step 0 is written during step 1, which the stop may have come before.
  assert [step for step, _ in result["losses"]] in ([0, 1, 2], [1, 2])

  comparison = (tmp_path / "out" / "comparison.json").read_text()
  memory, window = json.loads(comparison)["rows"]
  assert memory["memory_all"] > window["memory_all"] == 0
  assert memory["parameters"] > window["parameters"] > window["embedding_parameters"] > 0
  for row in (memory, window):
    first, second = row["per_seed"]
    assert first["perplexity"] != second["perplexity"]
    assert first["peak_host_bytes"] > 2**27 and first["tokens_per_second"] > 0
    assert row["perplexity"]["low"] < row["perplexity"]["mean"] < row["perplexity"]["high"]
  (larger,) = memory["evaluated_with"]
  assert larger["memory_all"] > memory["memory_all"]
  assert larger["perplexity"]["mean"] != pytest.approx(memory["perplexity"]["mean"], rel=1e-6)
  for name in ("loss", "memory", "position", "memory_after_training"):
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 1000

  code, log = compare(*arguments, "steps=3", cwd=tmp_path)
  assert code == 0 and "not run again" in log, log
  assert len(commands(tmp_path, "memory_seed0")) == 3
  assert (tmp_path / "out" / "comparison.json").read_text() == comparison

  code, log = compare(*arguments, "steps=4", cwd=tmp_path)
  assert code == 2 and "steps was 3 and is 4" in log, log


@pytest.mark.slow
def test_stock_decoders_read_what_a_row_with_memory_reads(tmp_path):
  data = running.documents_config(tmp_path, LENGTHS)
  data |= {"grain_eval_files": data["grain_train_files"], "melodi_prepare_data": ""}
  data |= {"vocab_size": 64, "per_device_batch_size": 2, "checkpoint_period": 1, "steps": 3}
  names = ["xl", "llama2", "qwen3_next"]
  files = [str(ROOT / "configs" / "yaml" / "small" / f"{name}.yml") for name in names]
  keys = [f"{key}={value}" for key, value in data.items()]
  code, log = compare(*files, *keys, "seeds=3", "out=out", cwd=tmp_path)
  assert code == 0, log

  runs = [tmp_path / "out" / "runs" / f"{name}_seed3" for name in names]
  places = [running.iterator_state(run / "checkpoints" / "2") for run in runs]
  assert places[0] == places[1] == places[2]
  rows = [json.loads((run / "evaluation.json").read_text())[0] for run in runs]
  assert [row["chunk"] for row in rows] == [None, 128, 128]
  for key in ("id", "tokens", "words", "bytes"):
    first, *others = ([document[key] for document in row["documents"]] for row in rows)
    assert first == others[0] == others[1] and len(first) == len(LENGTHS)
  for key in ("from", "to", "tokens"):
    first, *others = ([bucket[key] for bucket in row["positions"]] for row in rows)
    assert first == others[0] == others[1]
  nats = [row["nats"] for row in rows]
  assert len({round(value, 3) for value in nats}) == 3  # three models, not one
  table = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
  assert all(row["decode_state_bytes"] > 0 for row in table)


@pytest.mark.slow
def test_killed_comparison_goes_on_as_does_one_whose_training_was_killed(tmp_path):
  names = [pathlib.Path(config).name for config in write_configs(tmp_path)]
  arguments = [*names, "seeds=0", "out=out", "steps=40"]
  memory, window = (tmp_path / "out" / "runs" / f"{name}_seed0" for name in ("memory", "window"))

  process = running.start("-m", "melodi_plugin", "compare", *arguments, cwd=tmp_path)
  code = stop_at(memory / "checkpoints" / "5" / "items", process, signal.SIGKILL)
  assert code == -signal.SIGKILL
  # What it had started goes on alone, and is no longer anybody's.
  until = time.monotonic() + LIMIT
  while not (memory / "training.json").exists() and time.monotonic() < until:
    time.sleep(0.05)

  process = running.start("-m", "melodi_plugin", "compare", *arguments, cwd=tmp_path)
  wait_for(window / "checkpoints" / "5" / "items", process)
  assert process.poll() is None, (tmp_path / "log.txt").read_text()
  (child,) = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
  os.kill(int(child), signal.SIGKILL)
  assert process.wait(timeout=LIMIT) == 1
  assert "window_seed0: training ended with status -9" in (tmp_path / "log.txt").read_text()
  assert (memory / "result.json").exists() and not (window / "training.json").exists()

  code, log = compare(*arguments, cwd=tmp_path)
  assert code == 0, log
  assert commands(tmp_path, "memory_seed0") == ["compare.training", "evaluate"]
  assert commands(tmp_path, "window_seed0") == ["compare.training"] * 2 + ["evaluate"]
  for run in (memory, window):
    result = json.loads((run / "result.json").read_text())
    assert result["losses"][-1][0] == 39
    logged = (run / "metrics.jsonl").read_text()
    assert len(re.findall(r'"step": 3\b', logged)) == 1  # none has begun anew


@pytest.mark.slow  # a process of its own: MaxText looks for other hosts only where pytest is not
@pytest.mark.parametrize("keys", [{}, {"hardware": "cpu"}])
def test_config_that_does_not_say_where_it_runs_is_described(tmp_path, keys):
  own = running.TINY | running.MELODI | keys
  del own["skip_jax_distributed_system"]
  (found,) = configs.describe([[str(running.write_yaml(tmp_path / "own.yml", **own))]])
  assert found.settings["base_emb_dim"] == 32
