"""`melodi train`: what its screen shows, how it is stopped and goes on, and what it refuses."""

import errno
import math
import os
import pathlib
import re
import signal

import pytest

from integration_tests import running
from integration_tests.saved_runs import EQUAL_LAYERS
from melodi_plugin.cli.main import main
from melodi_plugin.data.rows import StickyRowsIterator
from melodi_plugin.output import lock
from melodi_plugin.training.progress import Progress

LENGTHS = [150, 40, 333, 7, 64, 65, 210, 96, 31, 128]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """`own.yml`, which says nothing of the hardware, reads small documents for 4 steps."""
  folder = tmp_path_factory.mktemp("train")
  keys = running.TINY | running.MELODI | EQUAL_LAYERS
  keys |= running.documents_config(folder, LENGTHS)
  del keys["skip_jax_distributed_system"]
  keys |= {"base_output_directory": "runs", "run_name": "own", "steps": 4, "log_period": 2}
  keys |= {"enable_checkpointing": True, "checkpoint_period": 10}
  running.write_yaml(folder / "own.yml", **keys)
  return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
  monkeypatch.chdir(folder)
  with running.maxtext_process():
    yield


def train(capsys, *words: str) -> tuple[int, list[str]]:
  """Status and lines of the screen; beside them stands what one can do with a finished run."""
  status = main(["train", "own.yml", *words])
  said = capsys.readouterr()
  checkpoint = pathlib.Path("runs/own/checkpoints/3/items").absolute()
  next_step = (
    "Write text with what was trained:\n"
    f"  uv run melodi decode own.yml load_parameters_path={checkpoint} prompt=The\n"
  )
  assert said.out == ("" if status else next_step) and "Traceback" not in said.err
  return status, said.err.splitlines()


def test_run_is_stopped_goes_on_and_is_done(folder, monkeypatch, capsys):
  count, load = Progress.step_done, StickyRowsIterator.__next__

  def stop(self, step, scalars):
    if step == 0:  # told while step 1 runs
      signal.raise_signal(signal.SIGTERM)
    return count(self, step, scalars)

  def interrupt(self):
    signal.raise_signal(signal.SIGINT)
    return load(self)

  monkeypatch.setattr(Progress, "step_done", stop)
  status, screen = train(capsys)
  assert status == 143
  assert "stopping after this step, because of SIGTERM" in screen
  assert screen[-1] == "interrupted: 2 of 4 steps are saved; the same command goes on there."
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

  monkeypatch.setattr(Progress, "step_done", count)
  monkeypatch.setattr(StickyRowsIterator, "__next__", interrupt)
  status, screen = train(capsys)
  assert status == 130
  assert "stopping after this step; Ctrl-C again stops at once" in screen
  assert screen[-1] == "interrupted: 3 of 4 steps are saved; the same command goes on there."

  monkeypatch.setattr(StickyRowsIterator, "__next__", load)
  status, screen = train(capsys)
  assert status == 0
  assert screen[0] == "hardware is not set: cpu, as JAX finds here."
  assert [line.partition(",")[0] for line in screen[1:]] == ["step 4 of 4"]
  log = (folder / "runs" / "own" / "log.txt").read_text()
  assert re.findall(r"completed step: (\d+)", log) == ["0", "1", "2", "3"]

  status, screen = train(capsys)
  assert status == 0
  assert screen[-1].startswith("own is done: its last checkpoint is of step 4, and steps=4.")

  def end(self, step, scalars):
    if step == 3:
      scalars["learning/loss"] = math.nan
    return count(self, step, scalars)

  # What a run leaves is read by the next, wherever the path begins; this one ends badly.
  monkeypatch.setattr(Progress, "step_done", end)
  found = "load_parameters_path=runs/own/checkpoints/3"
  status, screen = train(capsys, "run_name=next", "enable_checkpointing=false", found)
  assert status == 2
  assert [line.partition(", l")[0] for line in screen[1:4]] == [
    "step 1 of 4",
    "step 2 of 4",
    "step 4 of 4",
  ]
  assert re.search(r"tokens/s, input wait .* %, padding .* %, ETA 0:00:00$", screen[3])
  assert screen[4].startswith("error: the loss is not finite after step 4, so the run has ended; ")


WRONG = [
  (["tokenizer_path=nowhere.model"], "nowhere.model"),
  (["grain_train_files=nowhere"], "nowhere"),
  (["grain_train_files="], "grain_train_files"),
  (["vocab_size=8"], "set vocab_size to the size of the tokenizer."),
  (["load_parameters_path=nowhere/items"], "there is no checkpoint nowhere/items; give <run>/"),
  (["load_parameters_path=documents"], "documents is not a checkpoint of MaxText's"),
  (["base_output_directory=own.yml/runs"], "own.yml/runs/wrong cannot be written ("),
  (["run_name=wrong[1]"], "runs/wrong[1] could not be read again, because that has '[', '*' or"),
  (["stepps=3"], "stepps is not a key of MaxText or of melodi_plugin; did you mean steps?"),
  (["model_call_mode=inference"], "model_call_mode=inference is for decoding"),
  (["melodi_window_length=17"], "17"),
  (["vocab_size=-1"], "vocab_size=-1 leaves nothing to do; set it above 0."),
  (["steps=0"], "steps=0 leaves nothing to do; set it above 0."),
  (["load_full_state_path=nowhere"], "there is no checkpoint nowhere; give <run>/"),
  (["ici_tensor_parallelism=7"], "; change the keys ici_*_parallelism or dcn_*_parallelism."),
  (["hardware=gpu"], "hardware=gpu is set, but JAX finds no GPU here; leave hardware out"),
  (["hardware=npu"], "hardware=npu is none of tpu, gpu, gpu_multiprocess, cpu; set one of them."),
  (["decoder_block=melody"], "error: there is no decoder_block melody; did you mean melodi"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_cannot_be_trained_is_one_sentence(capsys, words, sentence):
  status, screen = train(capsys, "hardware=cpu", "run_name=wrong", *words)
  assert status == 2
  assert len(screen) == 1 and screen[0].startswith("error: ") and sentence in screen[0]
  assert not pathlib.Path("runs/wrong/checkpoints/0").exists()


@pytest.mark.parametrize("call, file", [("makedirs", ""), ("fsync", "/lock.json")])
def test_a_disk_that_is_full_before_the_first_step_is_one_sentence(
  folder, monkeypatch, capsys, call, file
):
  original = getattr(os, call)

  def full(path, *more, **keys):
    if call == "fsync" or str(path).endswith("full"):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([path] if call != "fsync" else ()))
    return original(path, *more, **keys)

  monkeypatch.setattr(os, call, full)
  status, screen = train(capsys, "hardware=cpu", "run_name=full")
  assert status == 2
  left = "free some; no step of this run is saved."
  assert screen == [f"error: no space is left for {folder}/runs/full{file}: {left}"]


def test_second_process_in_the_folder_of_a_run_is_one_sentence(folder, monkeypatch, capsys):
  monkeypatch.setattr(lock, "_is_gone", lambda *_: False)
  (folder / "runs" / "taken").mkdir(parents=True)
  (folder / "runs" / "taken" / "lock.json").write_text('{"host": "other", "pid": 7}')
  status, screen = train(capsys, "hardware=cpu", "run_name=taken")
  assert status == 2
  said = f"error: another process works in {folder}/runs/taken (host other, process 7, since "
  assert screen[0].startswith(said)


@pytest.mark.slow
def test_run_that_goes_on_without_a_finite_loss_keeps_its_last_finite_checkpoint(
  folder, monkeypatch, capsys
):
  count = Progress.step_done

  def diverge(self, step, scalars):
    if step >= 3:
      scalars["learning/loss"] = math.nan
    return count(self, step, scalars)

  monkeypatch.setattr(Progress, "step_done", diverge)
  words = ["hardware=cpu", "run_name=diverged", "checkpoint_period=1", "abort_on_nan_loss=false"]
  words += ["max_num_checkpoints_to_keep=1", "abort_on_inf_loss=false"]
  for steps in (6, 8):
    assert main(["train", "own.yml", *words, f"steps={steps}"]) == 0
    said = capsys.readouterr().err
    assert said.count("the loss is not finite since step 4; the last checkpoint that is known") == 1
    saved = folder / "runs" / "diverged" / "checkpoints"
    assert sorted(path.name for path in saved.iterdir()) == ["1", str(steps - 1)]


@pytest.mark.slow
def test_tpu_that_is_not_there_is_one_sentence(folder):
  # A process of its own: MaxText does not look for other hosts where pytest is.
  code, log = running.command("-m", "melodi_plugin", "train", "own.yml", "hardware=tpu", cwd=folder)
  assert code == 2
  assert log.splitlines() == [
    "error: hardware=tpu is set, but there is no TPU here; leave hardware out, or set hardware=cpu."
  ]


@pytest.mark.parametrize(("words", "slices"), [([], 1), (["compile_topology_num_slices=2"], 2)])
def test_compile_is_for_one_slice_unless_another_number_is_set(monkeypatch, words, slices):
  from maxtext.trainers.pre_train import train_compile

  compiled = []

  def compile_nothing(argv):
    compiled.append(argv)
    train_compile.jit_and_compile()

  monkeypatch.setattr(train_compile, "jit_and_compile", lambda: "a step")
  monkeypatch.setattr(train_compile, "main", compile_nothing)
  assert main(["compile", "own.yml", "hardware=cpu", "compile_topology=v5e-16", *words]) == 0
  assert running.initialize_only(*compiled[0][1:]).compile_topology_num_slices == slices


def test_compile_needs_a_topology(capsys):
  assert main(["compile", "own.yml"]) == 2
  assert "compile_topology is not set; add the accelerators" in capsys.readouterr().err


@pytest.mark.parametrize(
  "words, said",
  [
    (
      "JAX TPU support not installed; cannot generate TPU topology.",
      "needs the package libtpu: uv run --extra",
    ),
    (
      "ABORTED: Internal error when accessing libtpu multi-process lockfile. Run ...",
      "another process has libtpu, or one that was killed has left its lock: wait",
    ),
  ],
)
def test_compile_without_the_compiler_for_tpus_is_one_sentence(monkeypatch, capsys, words, said):
  from maxtext.trainers.pre_train import train_compile

  def fail(argv):
    raise RuntimeError(words)

  monkeypatch.setattr(train_compile, "main", fail)
  assert main(["compile", "own.yml", "hardware=cpu", "compile_topology=v5e-16"]) == 2
  assert said in capsys.readouterr().err
