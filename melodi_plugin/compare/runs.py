"""One run: a config with a seed, trained, then evaluated, each in a process of its own.

What a run leaves in its folder says how far it has come, so that the same command goes on there:
`settings.json` (what it was begun with), `checkpoints/`, `training.json` (training is complete),
`result.json` (it is evaluated), and a folder per value of evaluate_with.
"""

import contextlib
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from melodi_plugin.compare import metrics
from melodi_plugin.compare.request import FORCED, SEEDS
from melodi_plugin.errors import UserError
from melodi_plugin.evaluation import report
from melodi_plugin.evaluation.probes import pages
from melodi_plugin.maxtext.weights import reading, run_checkpoints
from melodi_plugin.output.files import write_file

_POLL_SECONDS = 1.0
_STOP_SECONDS = 60
_TOLD = 3  # changed settings that a refusal lists

Sizes = Mapping[str, Any]
Result = dict[str, Any]


class RunError(Exception):
  """A process of a run has ended with an error; says which, and where its log is."""


class Row(NamedTuple):
  """A config, and what was found out about it before any run."""

  name: str
  config: str  # path of the YAML
  overrides: tuple[str, ...]  # key=value
  settings: Mapping[str, Any]
  sizes: Sizes
  changed: Mapping[str, Sizes] = {}  # 'key=value' to evaluate with as well: sizes with it
  hides_empty_slots: bool | None = None  # of memory; None if it has none


class Run(NamedTuple):
  """A row with a seed."""

  row: Row
  seed: int
  out: pathlib.Path  # of the comparison
  probe: str = ""  # that is asked after the evaluation, or ''

  @property
  def name(self) -> str:
    """Its run_name."""
    return f"{self.row.name}_seed{self.seed}"

  @property
  def folder(self) -> pathlib.Path:
    """Where it writes."""
    return self.out / "runs" / self.name

  @property
  def log(self) -> pathlib.Path:
    """What its processes have printed."""
    return self.out / "logs" / f"{self.name}.log"

  @property
  def finished(self) -> bool:
    """Whether there is nothing left to do."""
    evaluated = self.result() is not None and all(map(self.evaluation, self.row.changed))
    return evaluated and (not self.probe or self.probed() is not None)

  def steps_done(self) -> int:
    """Training steps so far."""
    return metrics.last_step(self.folder / "metrics.jsonl")

  def result(self) -> Result | None:
    """What `result.json` holds; None if there is none yet."""
    return _read(self.folder / "result.json")

  def evaluation(self, changed: str = "") -> report.Evaluation | None:
    """The evaluation as configured, or with 'key=value'; None if there is none yet."""
    folder = self.folder / changed.replace("=", "_")
    try:
      # Its name tells whether the config forgets at every window; it is the only one here.
      (path,) = folder.glob("evaluation*.json")
      return report.read_evaluations(str(path))[-1]
    except ValueError:
      return None

  def probed(self) -> dict[str, Any] | None:
    """What the probe has found; None if it has not yet."""
    names = (f"probe_{self.probe}{control}.json" for control in ("", "_reset_every_window"))
    paths = [self.folder / name for name in names if (self.folder / name).is_file()]
    with contextlib.suppress(ValueError):
      return pages.read(str(paths[0])) if paths else None
    return None


def check_settings(run: Run) -> None:
  """Raises UserError if the run has begun with other settings."""
  then, now = _read(run.folder / "settings.json"), run.row.settings
  begun = any(run.folder.glob("checkpoints/*")) or run.result()
  if then is None or not begun or then == now:
    return
  keys = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
  told = [f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in keys[:_TOLD]]
  more = f" and {len(keys) - _TOLD} more" if len(keys) > _TOLD else ""
  raise UserError(
    f"{run.folder} holds a run of {run.row.config} with other settings ({', '.join(told)}{more}); "
    "give another out=, or remove that folder."
  )


def execute(run: Run, on_progress: Callable[[str], None]) -> tuple[Result, list[str]]:
  """Does what is left of a run.

  Args:
    run: which.
    on_progress: told about every second what is being done.

  Returns:
    What `result.json` holds, with the evaluations of evaluate_with and what the probe has found;
    and a sentence for each of those that failed.

  Raises:
    RunError: if training fails, or the evaluation as configured.
  """
  run.folder.mkdir(parents=True, exist_ok=True)
  run.log.parent.mkdir(parents=True, exist_ok=True)
  _write(run.folder / "settings.json", run.row.settings)
  result = run.result() or _train_and_evaluate(run, on_progress)
  changed, failures = {}, []
  for argument in run.row.changed:
    try:
      changed[argument] = run.evaluation(argument) or _evaluate(run, argument, on_progress)
    except RunError as error:
      failures.append(str(error))
  probed = None
  if run.probe:
    try:
      probed = run.probed() or _probe(run, on_progress)
    except RunError as error:
      failures.append(str(error))
  return result | {"evaluated_with": changed, "probed": probed}, failures


def _train_and_evaluate(run: Run, on_progress: Callable[[str], None]) -> Result:
  trained = _train(run, on_progress)
  evaluation = _evaluate(run, "", on_progress)
  result = {"row": run.row.name, "seed": run.seed, **trained, "evaluation": evaluation}
  _write(run.folder / "result.json", result)
  return result


def _train(run: Run, on_progress: Callable[[str], None]) -> dict[str, Any]:
  """Trains, from the last checkpoint if there is one; returns what was measured."""
  done = run.folder / "training.json"
  if _read(done) is None:
    own = (f"run_name={run.name}", f"base_output_directory={run.folder.parent}")
    log = f"metrics_file={run.folder / 'metrics.jsonl'}"
    arguments = (*_arguments(run), *own, log)
    _command(
      run, "training", ("melodi_plugin.compare.training", str(done), *arguments), on_progress
    )
  if not run.steps_done():
    raise RunError(f"{run.name}: training logged no step; see {run.log}")
  _check_complete(run)
  return metrics.read(run.folder / "metrics.jsonl") | _read(done)


def _check_complete(run: Run) -> None:
  """Raises RunError if training has ended well, but early."""
  # A kill can lose the line of a step whose checkpoint was saved: lines alone say too little.
  saved = 1 + int(pathlib.Path(_last_checkpoint(run)).parent.name)
  steps, trained = run.row.settings["steps"], max(saved, run.steps_done())
  if trained < steps:
    raise RunError(
      f"{run.name}: training ended after {trained} of {steps} steps, as it does where the text "
      f"ends (num_epoch reads it again); see {run.log}"
    )


def _last_checkpoint(run: Run) -> str:
  try:
    return run_checkpoints(f"{run.folder}/checkpoints")[-1]
  except ValueError:
    raise RunError(f"{run.name}: training left no checkpoint; see {run.log}") from None


def _evaluate(run: Run, changed: str, on_progress: Callable[[str], None]) -> report.Evaluation:
  """Evaluates the last checkpoint, as configured or with 'key=value'."""
  place = run.folder / changed.replace("=", "_")
  arguments = (*_arguments(run), *([changed] if changed else []))
  own = (
    *reading(_last_checkpoint(run)),
    f"run_name={place.name}",
    f"base_output_directory={place.parent}",
  )
  stage = f"evaluation with {changed}" if changed else "evaluation"
  _command(run, stage, ("melodi_plugin", "evaluate", *arguments, *own), on_progress)
  found = run.evaluation(changed)
  if found is None:
    raise RunError(f"{run.name}: the {stage} left no evaluation.json; see {run.log}")
  return found


def _probe(run: Run, on_progress: Callable[[str], None]) -> dict[str, Any]:
  """Asks the last checkpoint."""
  forced = tuple(
    argument for argument in _arguments(run) if not argument.startswith("melodi_probe=")
  )
  own = (
    f"melodi_probe={run.probe}",
    *reading(_last_checkpoint(run)),
    f"run_name={run.name}",
    f"base_output_directory={run.folder.parent}",
  )
  stage = f"probe {run.probe}"
  _command(run, stage, ("melodi_plugin", "evaluate", *forced, *own), on_progress)
  found = run.probed()
  if found is None:
    raise RunError(f"{run.name}: the {stage} left no probe_{run.probe}.json; see {run.log}")
  return found


def _arguments(run: Run) -> tuple[str, ...]:
  seeds = (f"{key}={run.seed}" for key in SEEDS)
  return (run.row.config, *run.row.overrides, *FORCED, *seeds)


def _command(
  run: Run, stage: str, arguments: tuple[str, ...], on_progress: Callable[[str], None]
) -> None:
  """Runs `python -m <arguments>` until it ends; its output goes to the run's log."""
  words = [sys.executable, "-m", *arguments]
  with open(run.log, "a", encoding="utf-8") as log:
    print(f"\n$ {shlex.join(words)}", file=log, flush=True)
    # Children inherit the lock of the comparison: it holds as long as one of them writes.
    process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, close_fds=False)
    try:
      while process.poll() is None:
        on_progress(stage)
        with contextlib.suppress(subprocess.TimeoutExpired):
          process.wait(_POLL_SECONDS)
      status = process.returncode
    finally:
      process.terminate()  # a training saves its step
      try:
        process.wait(_STOP_SECONDS)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
  if status:
    raise RunError(f"{run.name}: {stage} ended with status {status}; see {run.log}")


def _read(path: pathlib.Path) -> Any:
  """What a JSON file holds; None if there is none, or one that a full disk has left empty."""
  try:
    return json.loads(path.read_text())
  except (FileNotFoundError, ValueError):
    return None


def _write(path: pathlib.Path, content: Any) -> None:
  write_file(str(path), json.dumps(content, indent=1).encode())
