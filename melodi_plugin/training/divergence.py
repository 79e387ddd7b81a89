"""The last checkpoint of a run before its loss stopped being finite is kept."""

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import fsspec

from melodi_plugin.output.files import read_json, write_file


class Divergence:
  """Watches the loss of a run that goes on whatever it is; a preservation policy of Orbax.

  A checkpoint is known to be finite when the loss of a step after it is: so the newest of those is
  kept besides what is kept anyway.  While the loss is not finite, a file in the folder of the run
  says so to the sittings that follow.

  Args:
    path: of the file.
    say: told a sentence when the loss stops being finite, and when it is again.
    writes: whether this process writes the file; the others only read it.
  """

  def __init__(self, path: str, say: Callable[[str], None], *, writes: bool = True):
    self._path = path
    self._say = say
    self._writes = writes
    self._good: int | None = None  # the last step with a finite loss
    self._since: int | None = None  # the first without, of those since then
    with contextlib.suppress(ValueError):
      found = read_json(path)
      self._good, self._since = found["good"], found["since"]
      say(self._words())

  def step_done(self, step: int, loss: float) -> None:
    """Counts a step, from 0."""
    if math.isfinite(loss):
      self._good = step
      if self._since is not None:
        self._since = None
        self._say(f"the loss is finite again, at step {step + 1}")
        if self._writes:
          files, name = fsspec.core.url_to_fs(self._path)
          files.rm_file(name)
    elif self._since is None:
      self._since = step
      self._say(self._words())
      if self._writes:
        write_file(self._path, json.dumps({"good": self._good, "since": step}).encode())

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:
    """Which checkpoints are kept: the newest finite one, and those of which it is not known yet."""
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    good = -1 if self._good is None else self._good
    finite = max((step for step in steps if step < good), default=None)
    return [step == finite or (self._since is None and step >= good) for step in steps]

  def _words(self) -> str:
    assert self._since is not None
    return (
      f"the loss is not finite since step {self._since + 1}; the last checkpoint that is known to "
      "be finite is kept, whatever max_num_checkpoints_to_keep says"
    )
