"""A run goes on where it stopped; processes are played by a function that leaves their files."""

import subprocess
import sys

import pytest

from melodi_plugin.compare import execution, runs
from melodi_plugin.errors import UserError
from melodi_plugin.testing.comparison import Processes, line, make_evaluation, make_row

CHANGED = "melodi_long_term_windows=8"


@pytest.fixture
def processes(monkeypatch):
  played = Processes()
  monkeypatch.setattr(runs, "_command", played)
  return played


def test_run_is_trained_and_evaluated_once(tmp_path, processes):
  run = runs.Run(make_row(changed=[CHANGED]), 1, tmp_path)
  assert not run.finished and run.steps_done() == 0
  result, failures = runs.execute(run, lambda stage: None)
  assert not failures
  stages = ["training", "evaluation", f"evaluation with {CHANGED}"]
  assert processes.started == [("memory_seed1", stage) for stage in stages]
  assert run.finished and run.steps_done() == 4
  assert result["seed"] == 1 and result["row"] == "memory" and result["peak_host_bytes"] == 5
  assert result["evaluated_with"][CHANGED] == result["evaluation"] == make_evaluation(3.0)
  assert runs.execute(run, lambda stage: None) == (result, [])
  assert len(processes.started) == 3


def test_a_probe_is_asked_once(tmp_path, processes):
  run = runs.Run(make_row(), 0, tmp_path, "ruler")
  runs.execute(run._replace(probe=""), lambda stage: None)
  assert not run.finished
  for _ in range(2):
    result, failures = runs.execute(run, lambda stage: None)
    assert result["probed"]["probe"] == "ruler" and not failures
  stages = [stage for _, stage in processes.started]
  assert stages == ["training", "evaluation", "probe ruler"] and run.finished


@pytest.mark.parametrize("content", ["", "{"])
@pytest.mark.parametrize(
  "name", ["training.json", "result.json", "evaluation.json", "probe_ruler.json"]
)
def test_what_a_full_disk_has_left_half_is_not_done(tmp_path, processes, name, content):
  run = runs.Run(make_row(), 0, tmp_path, "ruler")
  run.folder.mkdir(parents=True)
  (run.folder / name).write_text(content)
  assert not run.finished
  result, failures = runs.execute(run, lambda stage: None)
  assert [stage for _, stage in processes.started] == ["training", "evaluation", "probe ruler"]
  assert run.finished and not failures and result["peak_host_bytes"] == 5


def test_a_probe_that_fails_leaves_the_result(tmp_path, processes):
  run = runs.Run(make_row(), 0, tmp_path, "ruler")
  processes.failing = {(run.name, "probe ruler")}
  result, (failure,) = runs.execute(run, lambda stage: None)
  assert result["evaluation"] == make_evaluation(3.0) and result["probed"] is None
  assert failure.startswith("memory_seed0: probe ruler ended with status 1")


def test_evaluation_is_found_whatever_the_changed_config_calls_it(tmp_path, processes):
  argument = "melodi_reset_every_window=true"
  run = runs.Run(make_row(changed=[argument]), 0, tmp_path)
  result, failures = runs.execute(run, lambda stage: None)
  assert result["evaluated_with"].keys() == {argument} and not failures
  assert run.finished


def test_failed_evaluation_with_a_key_changed_leaves_the_result(tmp_path, processes, capsys):
  other = "melodi_long_term_windows=9"
  run = runs.Run(make_row(changed=[CHANGED, other]), 0, tmp_path)
  processes.failing = {(run.name, f"evaluation with {CHANGED}")}
  (result,), (failure,) = execution.execute_all([run], 4)
  assert result["evaluation"] == make_evaluation(3.0)
  assert result["evaluated_with"].keys() == {other} and not run.finished
  assert failure.startswith(f"memory_seed0: evaluation with {CHANGED} ended with status 1")
  said = capsys.readouterr().err
  assert "memory_seed0: test perplexity" in said and f"failed: {failure}" in said


def test_training_that_ends_early_is_not_complete(tmp_path, processes):
  run, processes.steps = runs.Run(make_row(), 0, tmp_path), 3
  for _ in range(2):  # nor is it when the command is given again
    with pytest.raises(runs.RunError, match="training ended after 3 of 4 steps"):
      runs.execute(run, lambda stage: None)
  assert run.result() is None
  assert [stage for _, stage in processes.started] == ["training"]


def test_line_that_a_kill_has_lost_does_not_count_as_an_early_end(tmp_path, processes):
  run = runs.Run(make_row(), 0, tmp_path)
  run.folder.mkdir(parents=True)
  runs._train(run, lambda stage: None)
  (run.folder / "metrics.jsonl").write_text("".join(map(line, range(3))))
  result, _ = runs.execute(run, lambda stage: None)
  assert [step for step, _ in result["losses"]] == [0, 1, 2]


def test_stopped_run_goes_on_at_the_stage_that_is_missing(tmp_path, processes):
  run = runs.Run(make_row(), 0, tmp_path)
  processes.failing = {(run.name, "evaluation")}
  with pytest.raises(runs.RunError, match=r"memory_seed0\.log"):
    runs.execute(run, lambda stage: None)
  processes.failing = set()
  runs.execute(run, lambda stage: None)
  assert [stage for _, stage in processes.started] == ["training", "evaluation", "evaluation"]
  # Asked for later, only the new evaluation is missing.
  more = runs.Run(make_row(changed=[CHANGED]), 0, tmp_path)
  assert not more.finished
  runs.execute(more, lambda stage: None)
  assert [stage for _, stage in processes.started[3:]] == [f"evaluation with {CHANGED}"]


def test_begun_run_with_other_settings_is_refused(tmp_path, processes):
  row = make_row()
  runs.execute(runs.Run(row, 0, tmp_path), lambda stage: None)
  runs.check_settings(runs.Run(row, 0, tmp_path))
  other = row._replace(settings=row.settings | {"learning_rate": 0.2})
  runs.check_settings(runs.Run(other, 1, tmp_path))  # another run
  with pytest.raises(UserError) as end:
    runs.check_settings(runs.Run(other, 0, tmp_path))
  said = str(end.value)
  assert "memory.yml with other settings (learning_rate was 0.1 and is 0.2); give another" in said


def test_run_that_failed_before_its_first_checkpoint_may_change(tmp_path, processes):
  run = runs.Run(make_row(), 0, tmp_path)
  processes.failing = {(run.name, "training")}
  with pytest.raises(runs.RunError):
    runs.execute(run, lambda stage: None)
  other = run.row._replace(settings={**run.row.settings, "learning_rate": 0.2})
  runs.check_settings(run._replace(row=other))


def test_failed_run_is_told_and_the_others_go_on(tmp_path, processes, capsys):
  rows = [make_row(name) for name in ("one", "two", "three")]
  processes.failing = {("two_seed0", "training")}
  all_runs = [runs.Run(row, 0, tmp_path) for row in rows]
  results, failures = execution.execute_all(all_runs, 4)
  assert [result["row"] for result in results] == ["one", "three"]
  (failure,) = failures
  assert (
    failure.startswith("two_seed0: training ended with status 1") and "two_seed0.log" in failure
  )
  processes.failing, processes.started = set(), []
  results, failures = execution.execute_all(all_runs, 4)
  assert len(results) == 3 and not failures
  assert {name for name, _ in processes.started} == {"two_seed0"}
  assert "one_seed0: finished before, not run again" in capsys.readouterr().err
  execution.execute_all(all_runs, 4)
  said = capsys.readouterr().err
  assert "two_seed0: finished before, not run again" in said and "training steps" not in said


def test_process_that_fails_leaves_its_output_in_the_log(tmp_path):
  run = runs.Run(make_row(), 0, tmp_path)
  run.log.parent.mkdir()
  with pytest.raises(runs.RunError, match=r"memory_seed0: training ended with status 1; see .*log"):
    runs._command(run, "training", ("melodi_plugin.no_such_module", "a=b c"), lambda stage: None)
  text = run.log.read_text()
  assert "-m melodi_plugin.no_such_module 'a=b c'" in text
  assert "No module named melodi_plugin.no_such_module" in text


def test_folder_belongs_to_one_comparison(tmp_path):
  first, second = (execution.locked(tmp_path / "out") for _ in range(2))
  with first, pytest.raises(UserError, match="another comparison still writes to"), second:
    pass
  with execution.locked(tmp_path / "out"):
    pass


def test_folder_stays_locked_while_a_process_of_a_killed_comparison_writes(tmp_path):
  with execution.locked(tmp_path):
    orphan = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, close_fds=False)
  try:
    with pytest.raises(UserError), execution.locked(tmp_path):
      pass
  finally:
    orphan.communicate(b"\n")
  with execution.locked(tmp_path):
    pass
