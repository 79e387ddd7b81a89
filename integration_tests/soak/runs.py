"""What is trained, in how many processes, on which disk; what must be equal at the end."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import subprocess
from typing import Any

from integration_tests import running
from integration_tests.saved_runs import assert_same_checkpoint, write_config
from integration_tests.soak import forks

STEPS = 60
_DISK = (
  24  # MiB of the small disk: some checkpoints of the run, and what MaxText writes beside them
)
_LEAVES_OPEN = 60.0  # seconds that a process may take to end after a signal
# One kind of layers to compile; a commit every third step, of which three are kept; evaluation.
_KEYS: dict[str, Any] = {
  "base_num_decoder_layers": 2,
  "melodi_long_term_layers": "0,1",
  "per_device_batch_size": 2,
  "steps": STEPS,
  "learning_rate_schedule_steps": STEPS,
  "checkpoint_period": 3,
  "max_num_checkpoints_to_keep": 3,
  "async_checkpointing": True,
  "eval_interval": 5,
  "grain_worker_count_eval": 0,
  "log_period": 1,
}
_LOGGED = ("learning/loss", "learning/grad_norm", "learning/total_weights", "eval/avg_loss")


@dataclasses.dataclass(frozen=True)
class Kind:
  """How a training runs.

  Attributes:
    name: in the report.
    share: of the kills, beside those of the other kinds.
    processes: of its job.
    keys: of its configuration.
    small_disk: whether it writes to a disk of few MiB.
  """

  name: str
  share: int
  processes: int = 1
  keys: tuple[str, ...] = ()
  small_disk: bool = False


KINDS = (
  Kind("one process", 4),
  Kind("a worker process", 4, keys=("grain_worker_count=1",)),
  Kind("two processes", 1, 2, ("skip_jax_distributed_system=False", "hardware=cpu")),
  Kind("small disk", 3, small_disk=True),
)


def prepare(folder: pathlib.Path) -> int:
  """Writes documents, a tokenizer and the config of all runs."""
  held_out = running.write_documents(folder / "held_out", [100, 60])
  write_config(folder, **_KEYS, grain_eval_files=str(held_out))
  return 0


class Run:
  """One training, over as many sittings as it takes."""

  def __init__(self, folder: pathlib.Path, kind: Kind, name: str):
    self.kind = kind
    self.name = name
    self.folder = folder
    self.output = folder / "out"
    self.sittings = 0
    self.processes: list[int] = []
    self.statuses: list[int | None] = []
    if kind.small_disk:
      self.output = folder / "small"
      self.output.mkdir(exist_ok=True)
      if not self.output.is_mount():
        size = f"size={_DISK}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.output], check=True)

  @property
  def checkpoints(self) -> pathlib.Path:
    """The folder of its checkpoints."""
    return self.output / self.name / "checkpoints"

  def log(self, process: int = 0) -> pathlib.Path:
    """What a process has printed, in all sittings."""
    return self.folder / f"{self.name}_{process}.txt"

  def saved(self) -> list[int]:
    """Steps of its whole checkpoints."""
    there = self.checkpoints.iterdir() if self.checkpoints.exists() else ()
    return sorted(int(path.name) for path in there if path.name.isdecimal())

  def steps(self) -> bool:
    """Whether this sitting has logged a step."""
    return (self.folder / f"{self.name}_{self.sittings}_0.jsonl").exists()

  def begins_to_save(self) -> set[str]:
    """Checkpoints that are not whole."""
    there = self.checkpoints.iterdir() if self.checkpoints.exists() else ()
    return {path.name for path in there if "tmp" in path.name}

  def start(self) -> None:
    """Begins a sitting."""
    self.sittings += 1
    self.processes = [self._start(index) for index in range(self.kind.processes)]
    self.statuses = [None] * len(self.processes)

  def _start(self, index: int) -> int:
    metrics = self.folder / f"{self.name}_{self.sittings}_{index}.jsonl"
    arguments = [
      "train",
      str(self.folder / "config.yml"),
      f"run_name={self.name}",
      f"base_output_directory={self.output}",
      f"metrics_file={metrics}",
      *self.kind.keys,
    ]
    job = {} if self.kind.processes == 1 else _job_of(index, self.kind.processes)

    def train() -> int | None:
      from melodi_plugin.cli.main import main

      return main(arguments)

    return forks.fork(train, self.log(index), **job)

  def ended(self) -> bool:
    """Whether a process of it has ended."""
    for index, process in enumerate(self.processes):
      if self.statuses[index] is None:
        self.statuses[index] = forks.ended(process)
    return any(status is not None for status in self.statuses)

  def wait(self, seconds: float = _LEAVES_OPEN) -> None:
    """Until all processes have ended, and at most so long."""
    for index, process in enumerate(self.processes):
      if self.statuses[index] is None:
        self.statuses[index] = forks.wait(process, seconds)

  def compare(self, through: "Run", log: pathlib.Path) -> bool:
    """Whether it has ended as the run that nobody has touched; what differs stands in `log`."""

    def compare() -> int:
      last = str(STEPS - 1)
      assert_same_checkpoint(through.checkpoints / last, self.checkpoints / last)
      expected, found = through.logged(), self.logged()
      for key, values in found.items():
        assert values == expected[key], (key, values, expected[key])
      assert any(step == STEPS - 1 for _, step in found)
      return 0

    return forks.call(compare, log)

  def logged(self) -> dict[tuple[str, int], set[tuple[float, ...]]]:
    """What all sittings have logged of every step, and of every evaluation."""
    found: dict[tuple[str, int], set[tuple[float, ...]]] = {}
    for path in self.folder.glob(f"{self.name}_*_0.jsonl"):
      for text in path.read_text().splitlines():
        try:
          line = json.loads(text)
        except ValueError:
          continue  # a kill has cut it
        kind = "train" if "learning/loss" in line else "eval" if "eval/total_loss" in line else ""
        if kind:
          values = tuple(line[name] for name in _LOGGED if name in line)
          found.setdefault((kind, int(line["step"])), set()).add(values)
    return found

  def fill_disk(self, chance: random.Random) -> None:
    """Leaves at most a part of a checkpoint free; `free_disk` undoes it."""
    free = shutil.disk_usage(self.output).free
    with contextlib.suppress(OSError), (self.output / "ballast").open("wb") as file:
      os.posix_fallocate(file.fileno(), 0, max(1, free - chance.randrange(2**19)))

  def free_disk(self) -> None:
    (self.output / "ballast").unlink(missing_ok=True)


def _job_of(index: int, count: int) -> dict[str, str]:
  """The environment of a process of a job, as MaxText's launchers for CPU set it."""
  return {
    "JAX_COORDINATOR_ADDRESS": "localhost",
    "JAX_PROCESS_COUNT": str(count),
    "PROCESSES_IN_JOB": str(count),
    "JOB_INDEX": "0",
    "JOB_COMPLETION_INDEX": str(index),
  }
