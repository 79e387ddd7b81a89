"""Speed and losses out of the lines that a trainer has logged."""

import json

from melodi_plugin.compare import metrics
from melodi_plugin.testing.comparison import line


def test_speed_is_the_median_of_the_steps_after_those_that_compile(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text("".join(line(step, seconds=9.0 if step < 3 else 0.5) for step in range(8)))
  found = metrics.read(path)
  assert found["tokens_per_second"] == 200.0 and found["trained_tokens"] == 800
  assert found["losses"] == [[step, 2.0] for step in range(8)]
  path.write_text(line(0, seconds=4.0) + line(1, seconds=1.0))
  assert metrics.read(path)["tokens_per_second"] == 100.0


def test_repeated_steps_count_once_and_evaluations_and_cut_lines_not_at_all(tmp_path):
  path = tmp_path / "metrics.jsonl"
  evaluation = json.dumps({"step": 1.0, "eval/avg_loss": 7.0}) + "\n"
  path.write_text(line(0) + line(1) + evaluation + line(2)[:20] + line(1, 3.0) + line(2, 4.0))
  assert metrics.read(path)["losses"] == [[0, 2.0], [1, 3.0], [2, 4.0]]
  assert metrics.last_step(path) == 3


def test_tokens_of_a_step_whose_line_a_kill_has_lost_are_counted(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(line(0) + line(2) + line(3))
  found = metrics.read(path)
  assert found["trained_tokens"] == 400
  assert [step for step, _ in found["losses"]] == [0, 2, 3]


def test_steps_done_of_a_run_that_has_not_begun(tmp_path):
  assert metrics.last_step(tmp_path / "none.jsonl") == 0
  (tmp_path / "empty.jsonl").write_text("")
  assert metrics.last_step(tmp_path / "empty.jsonl") == 0


def test_loss_is_without_balance_losses_and_none_if_not_finite(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text(line(0, **{"learning/lm_loss": 1.5}) + line(1, float("nan")))
  assert metrics.read(path)["losses"] == [[0, 1.5], [1, None]]
