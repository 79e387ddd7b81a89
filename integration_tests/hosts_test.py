"""Two real processes = one process, and a run moves from the ones to the other."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from integration_tests import running
from integration_tests.saved_runs import (
  EQUAL_LAYERS,
  assert_same_checkpoint,
  checkpoints,
  write_config,
)
from melodi_plugin.evaluation.evaluate import evaluate

# By default one process is spread over eight devices in sharding_test, and rows of several are in
# data/any_rows_test.
STEPS, STOP = 6, 4
ROWS = 4  # of one process, on its only device; the tests' own process has one on each of eight


def start_process(index, arguments, cwd):
  """A process of a job of two, as MaxText's launchers for CPU start it."""
  environment = running.environment(
    JAX_COORDINATOR_ADDRESS="localhost",
    JAX_PROCESS_COUNT="2",
    PROCESSES_IN_JOB="2",
    JOB_INDEX="0",
    JOB_COMPLETION_INDEX=str(index),
  )
  with open(cwd / f"process_{index}.txt", "w", encoding="utf-8") as log:
    return subprocess.Popen(
      [sys.executable, "-m", "melodi_plugin", "train", *arguments],
      cwd=cwd,
      env=environment,
      stdout=log,
      stderr=subprocess.STDOUT,
    )


def start_two(config, *keys):
  """Two processes that train together."""
  arguments = [str(config), "skip_jax_distributed_system=False", *keys]
  return [start_process(index, arguments, config.parent) for index in range(2)]


def train_in_two(config, *keys, run_name="moved", rows=ROWS):
  """Trains STOP steps in two processes."""
  own = (f"run_name={run_name}", f"steps={STOP}", f"per_device_batch_size={rows}")
  codes = [process.wait(timeout=600) for process in start_two(config, *own, *keys)]
  assert codes == [0, 0], (config.parent / "process_1.txt").read_text()[-3000:]


def write(folder, **keys):
  """The config of all runs."""
  own = {"hardware": "cpu", "dropout_rate": 0.0, "checkpoint_period": STOP - 1}
  return write_config(folder, **own, **EQUAL_LAYERS, **keys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """`through`: one process; `moved`: STOP steps in two processes."""
  folder = tmp_path_factory.mktemp("hosts")
  train_in_two(write(folder))
  train_in_one(folder, "through")
  return folder


def train_in_one(folder, run_name):
  log = folder / f"{run_name}.jsonl"
  keys = (f"run_name={run_name}", f"steps={STEPS}", f"metrics_file={log}")
  running.train(str(folder / "config.yml"), *keys)


def assert_trained_as_one_process(folder, run_name):
  log = (checkpoints(folder, run_name).parent / "log.txt").read_text()
  found = re.findall(r"completed step: (\d+), .* total_weights: (\d+), loss: (\S+),", log)
  assert [int(step) for step, _, _ in found] == list(range(STOP))
  for (_, weights, loss), line in zip(
    found, running.metrics(folder / "through.jsonl"), strict=False
  ):
    assert int(weights) == line["learning/total_weights"]
    assert loss == f"{line['learning/loss']:.3f}"
  one, two = (
    running.checkpoint(checkpoints(folder, name) / str(STOP - 1)) for name in ("through", run_name)
  )
  assert one.keys() == two.keys()
  for name, array in one.items():
    if array.dtype == np.float32:
      np.testing.assert_allclose(two[name], array, rtol=1e-4, atol=2e-6, err_msg=name)


def assert_all_rows_are_read(folder, run_name):
  saved = checkpoints(folder, run_name) / str(STOP - 1) / "iter"
  rows = [
    json.loads((saved / f"process_{index}-of-2.json").read_text())["rows"] for index in range(2)
  ]
  assert not rows[0].keys() & rows[1].keys()
  assert sorted(map(int, rows[0] | rows[1])) == list(range(2 * ROWS))


@pytest.mark.broad
def test_two_processes_train_as_one(folder):
  assert_trained_as_one_process(folder, "moved")


@pytest.mark.broad
def test_processes_read_rows_of_their_own_that_together_are_all(folder):
  assert_all_rows_are_read(folder, "moved")


@pytest.mark.slow
def test_two_processes_with_two_microbatches_train_as_one_without(folder):
  keys = {"run_name": "accumulated", "rows": ROWS // 2}
  train_in_two(folder / "config.yml", "gradient_accumulation_steps=2", **keys)
  assert_trained_as_one_process(folder, "accumulated")
  assert_all_rows_are_read(folder, "accumulated")


@pytest.mark.broad
def test_run_of_two_processes_goes_on_exactly_in_one(folder):
  train_in_one(folder, "moved")
  through, moved = (running.metrics(folder / f"{name}.jsonl") for name in ("through", "moved"))
  assert [line["step"] for line in moved] == list(range(STOP, STEPS))
  for line, other in zip(moved, through[STOP:], strict=True):
    np.testing.assert_allclose(line["learning/loss"], other["learning/loss"], rtol=1e-6)
  last = [checkpoints(folder, name) / str(STEPS - 1) for name in ("moved", "through")]
  assert running.iterator_state(last[0]) == running.iterator_state(last[1])
  one, other = map(running.checkpoint, last)
  for name in one:
    if "/memory_" in name:
      np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_sigterm_of_one_process_ends_both_at_one_step_and_is_saved(tmp_path):
  config = write(tmp_path, steps=100_000, log_period=1)
  processes = start_two(config, "run_name=ended", f"per_device_batch_size={ROWS}")
  saved = checkpoints(tmp_path, "ended")
  try:
    while all(process.poll() is None for process in processes) and not (saved / "3").exists():
      time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    codes = [process.wait(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  logs = [(tmp_path / f"process_{index}.txt").read_text() for index in range(2)]
  assert codes == [143, 143], [log[-2000:] for log in logs]
  for log in logs:
    (left,) = re.findall(r"interrupted: (\d+) of 100000 steps are saved", log)
    assert (saved / str(int(left) - 1)).exists()


KILLED_STEPS = 100


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
  """A run of two processes that ends by itself."""
  config = write(tmp_path_factory.mktemp("never_killed"), steps=KILLED_STEPS)
  assert [process.wait(timeout=600) for process in start_killed(config)] == [0, 0]
  return checkpoints(config.parent, "killed") / str(KILLED_STEPS - 1)


def start_killed(config):
  return start_two(config, "run_name=killed", f"per_device_batch_size={ROWS}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_process_is_killed_the_other_ends_in_a_sentence_and_both_go_on_exactly(
  tmp_path, never_killed, victim
):
  config = write(tmp_path, steps=KILLED_STEPS)
  saved = checkpoints(tmp_path, "killed")
  processes = start_killed(config)
  try:
    while all(process.poll() is None for process in processes) and not (saved / "3").exists():
      time.sleep(0.05)
    processes[victim].kill()
    code = processes[1 - victim].wait(timeout=100)  # JAX's for a process that says nothing
  finally:
    for process in processes:
      process.kill()
  said = (tmp_path / f"process_{1 - victim}.txt").read_text()
  assert code == 2, said[-3000:]
  sentence = "error: another process of this job has ended or cannot be reached ("
  assert said.splitlines()[-1].startswith(sentence) and "Traceback" not in said
  assert not (saved / str(KILLED_STEPS - 1)).exists()
  assert [process.wait(timeout=600) for process in start_killed(config)] == [0, 0]
  assert_same_checkpoint(never_killed, saved / str(KILLED_STEPS - 1))


@pytest.mark.slow
def test_evaluation_ends_in_both_processes_and_reads_the_same(tmp_path):
  """The first process has more held-out text than the second."""
  held_out = running.write_documents(tmp_path / "held_out", [400, 33, 150, 20, 90])
  config = write(tmp_path, grain_eval_files=str(held_out), grain_worker_count_eval=0)
  train_in_two(config, "eval_interval=2", "melodi_evaluate_after_training=true")
  run = checkpoints(tmp_path, "moved").parent
  logs = [(run / name).read_text() for name in ("log.txt", "log_1.txt")]
  for log in logs:
    assert len(re.findall(r"Completed eval after train step", log)) == 2, log[-2000:]
    assert "Generating a padding batch" in log or log is logs[0]

  two = json.loads((run / "evaluation.json").read_text())[0]
  checkpoint = checkpoints(tmp_path, "moved") / str(STOP - 1) / "items"
  with running.maxtext_process():
    arguments = [f"load_parameters_path={checkpoint}", "run_name=one_process"]
    (one,) = evaluate(["", str(config), *arguments])
  assert two["tokens"] == one["tokens"]
  np.testing.assert_allclose(two["nats"], one["nats"], rtol=1e-6)
  documents = [{d["id"]: d["perplexity"] for d in found["documents"]} for found in (one, two)]
  assert documents[0].keys() == documents[1].keys()
  for name, perplexity in documents[0].items():
    np.testing.assert_allclose(documents[1][name], perplexity, rtol=1e-6)
