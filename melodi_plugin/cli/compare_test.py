"""The whole command, with configs and processes played by functions."""

import json
import os
import signal

import pytest

from melodi_plugin.cli.main import main
from melodi_plugin.compare import configs, runs
from melodi_plugin.testing.comparison import SETTINGS, SIZES, Processes


def describe(requests):
  """Models of one size, without memory if their name says so; a window more is memory more."""
  found = []
  for config, *overrides in requests:
    keys = dict(argument.split("=", 1) for argument in overrides)
    has_memory = "window" not in config and "stock" not in config
    memory = 16 * int(keys.get("melodi_long_term_windows", 4)) if has_memory else 0
    sizes = SIZES | {"memory_all": memory, "parameters": 1000 + int(keys.get("melodi_add", 0))}
    settings = SETTINGS | {"queue": memory, "steps": int(keys.get("steps", 4))}
    hides = keys.get("melodi_mask_empty_slots") == "true" or "hidden" in config
    overlaps = keys.get("melodi_overlapping_chunks") if "stock" in config else None
    evaluated = {"queue": memory, "overlaps": overlaps}
    found.append(configs.Described(settings, sizes, evaluated, hides if memory else None))
  return found


@pytest.fixture
def processes(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  for name in ("memory", "window", "hidden", "stock"):
    (tmp_path / f"{name}.yml").touch()
  played = Processes()
  monkeypatch.setattr(runs, "_command", played)
  monkeypatch.setattr(configs, "describe", describe)
  return played


def test_all_rows_and_seeds_are_compared_and_nothing_is_run_twice(tmp_path, processes, capsys):
  arguments = ["memory.yml", "window.yml", f"out={tmp_path}", "seeds=0,1"]
  arguments.append("evaluate_with=melodi_long_term_windows=1,4,8")
  assert main(["compare", *arguments]) == 0
  trained = [name for name, stage in processes.started if stage == "training"]
  assert trained == ["memory_seed0", "window_seed0", "memory_seed1", "window_seed1"]
  # Not with 4, with which it was trained, and not the row without memory.
  others = [(name, stage) for name, stage in processes.started if " with " in stage]
  assert {name for name, _ in others} == {"memory_seed0", "memory_seed1"}
  assert {stage[-1] for _, stage in others} == {"1", "8"}
  names = {path.name for path in tmp_path.iterdir() if path.is_file()}
  assert names >= {"comparison.md", "comparison.csv", "comparison.json"}
  assert names >= {
    "loss.png",
    "bytes.png",
    "memory.png",
    "position.png",
    "memory_after_training.png",
  }
  before, count = (tmp_path / "comparison.json").read_text(), len(processes.started)
  assert main(["compare", *arguments]) == 0
  assert len(processes.started) == count
  assert (tmp_path / "comparison.json").read_text() == before
  assert "| window " in capsys.readouterr().out


def test_rows_with_another_rule_for_empty_slots_are_told(tmp_path, processes, capsys):
  command = ["compare", "memory.yml", "window.yml", "hidden.yml", f"out={tmp_path}"]
  assert main(command) == 0
  said = "attended to in memory and hidden in hidden, which alone can decide"
  assert (
    f"warning: memory slots that no window has filled yet are {said}" in capsys.readouterr().err
  )
  assert said in (tmp_path / "comparison.md").read_text()
  assert main([*command[:-1], f"out={tmp_path}/same", "melodi_mask_empty_slots=true"]) == 0
  assert "warning" not in capsys.readouterr().err


def test_failure_is_in_the_status_and_in_the_files(tmp_path, processes, capsys):
  processes.failing = {("window_seed0", "training")}
  assert main(["compare", "memory.yml", "window.yml", f"out={tmp_path}"]) == 1
  content = json.loads((tmp_path / "comparison.json").read_text())
  assert [row["row"] for row in content["rows"]] == ["memory"]
  assert "window_seed0.log" in content["failed"][0]
  assert "error: window_seed0: training ended" in capsys.readouterr().err


def test_stock_row_is_read_again_in_overlapping_chunks(tmp_path, processes):
  argument = "evaluate_with=melodi_overlapping_chunks=true"
  assert main(["compare", "stock.yml", "memory.yml", f"out={tmp_path}", argument]) == 0
  text = (tmp_path / "comparison.md").read_text()
  assert "| stock | melodi_overlapping_chunks=true" in " ".join(text.split())
  assert "| memory | melodi_overlapping_chunks=true" not in " ".join(text.split())


def test_key_that_changes_parameters_cannot_change_after_training(tmp_path, processes, capsys):
  assert main(["compare", "memory.yml", f"out={tmp_path}", "evaluate_with=melodi_add=1"]) == 2
  assert "melodi_add=1 changes the number of parameters of memory.yml" in capsys.readouterr().err
  assert not processes.started


@pytest.mark.parametrize("below", ["", "/in"])
def test_folder_that_is_a_file_is_refused(tmp_path, processes, capsys, below):
  (tmp_path / "out").touch()
  assert main(["compare", "memory.yml", f"out={tmp_path}/out{below}"]) == 2
  assert capsys.readouterr().err.rstrip().endswith("a file; give another out=.")
  assert not processes.started


def test_finished_comparison_is_not_changed(tmp_path, processes, capsys):
  assert main(["compare", "memory.yml", f"out={tmp_path}"]) == 0
  assert main(["compare", "memory.yml", f"out={tmp_path}", "steps=5"]) == 2
  assert "steps was 4 and is 5" in capsys.readouterr().err


def test_sigterm_is_an_exception_that_ends_the_running_process(processes, monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(runs, "_command", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
  with pytest.raises(SystemExit) as end:
    main(["compare", "memory.yml", "out=out"])
  assert end.value.code == 128 + signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) == before
