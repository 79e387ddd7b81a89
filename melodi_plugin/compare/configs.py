"""What MaxText makes of a config, and the sizes of its model.

MaxText keeps state of its own in a process, and holds the accelerator, so this is found out in a
short process (this file, as a command) before any training begins.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from melodi_plugin.compare.request import PLACES, SAME, SEEDS
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.settings import as_written
from melodi_plugin.config.systems import is_melodi
from melodi_plugin.errors import UserError, exit_status
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.output.files import write_file

# Keys of ours that an evaluation depends on, besides those that MelodiConfig reads.
_OF_TEXT = (
  "melodi_id_field",
  "melodi_special_tokens_in_text",
  "melodi_max_document_bytes",
  "melodi_skip_broken_documents",
)
_WITH_MEMORY = ("melodi_reset_every_window", "melodi_memory_dtype", *_OF_TEXT)
# The window is what positions in a document are put together by.
_STOCK = (
  "melodi_overlapping_chunks",
  "melodi_sliding_window",
  "melodi_sink_tokens",
  "melodi_window_length",
  *_OF_TEXT,
)


class Described(NamedTuple):
  """A config, as it will be run."""

  settings: dict[str, Any]  # every key of MaxText and ours that can change a result
  sizes: dict[str, Any]  # fields of `cost.sizes.Sizes`
  evaluated: dict[str, Any]  # all that an evaluation depends on; of ours without memory nothing
  hides_empty_slots: bool | None  # of memory; None if it has none


def describe(requests: Sequence[Sequence[str]]) -> list[Described]:
  """Describes configs, each given as [config.yml, key=value, ...]; a bad one is a UserError."""
  with tempfile.TemporaryDirectory() as folder:
    answer = pathlib.Path(folder) / "described.json"
    child = subprocess.run(
      [sys.executable, "-m", "melodi_plugin.compare.configs", str(answer)],
      input=json.dumps(list(map(list, requests))),
      capture_output=True,
      text=True,
      check=False,
    )
    if child.returncode:
      said = [line for line in child.stderr.splitlines() if line.startswith("error: ")]
      if not said:
        print(child.stderr, file=sys.stderr)
      raise UserError(
        said[-1].removeprefix("error: ") if said else "the configs cannot be read; see above."
      )
    return [Described(**found) for found in json.loads(answer.read_text())]


def describe_here(request: Sequence[str]) -> Described:
  """Describes one config in this process; a bad one is a UserError."""
  try:
    config = load_config(["", *request], here=False)
    from melodi_plugin.maxtext.sizes import sizes  # after registration

    settings = settings_of(config.get_keys())
    counted = dict(sizes(config)._asdict())
    hides = _hides_empty_slots(config) if counted["memory_all"] else None
    without = is_melodi(config) and not counted["memory_all"]
    evaluated = {} if without else _evaluated(config, settings)
    return Described(settings, counted, evaluated, hides)
  except (UserError, ValueError, NotImplementedError) as error:
    raise UserError(f"{request[0]}: {error}") from error


def _evaluated(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
  """MaxText's keys as they are, ours as far as this model has a use for them."""
  keys = _WITH_MEMORY if is_melodi(config) else _STOCK
  own = {k: v for k, v in settings.items() if not k.startswith("melodi_") or k in keys}
  if not is_melodi(config):
    return own
  melodi = MelodiConfig.from_maxtext(config)
  # Layers that have a queue say how long it is; without one its windows say nothing.
  own["model"] = repr((dataclasses.replace(melodi, long_term_windows=0), melodi.layers))
  return own


def _hides_empty_slots(config: Any) -> bool | None:
  return MelodiConfig.from_maxtext(config).mask_empty_slots if is_melodi(config) else None


def settings_of(keys: dict[str, Any]) -> dict[str, Any]:
  """The keys that can change a result, ready for JSON: not where it is written, nor the seed.

  What all rows must share is kept even if it is a path in the folder of the comparison.
  """
  out = keys.get("base_output_directory") or None

  def kept(key: str, value: Any) -> bool:
    if key in (*PLACES, *SEEDS) or key.startswith("dump_"):
      return False
    if key in SAME or not out or not isinstance(value, str):
      return True
    return not pathlib.PurePath(value).is_relative_to(out)

  found = {key: value for key, value in sorted(keys.items()) if kept(key, value)}
  return json.loads(json.dumps(found, default=lambda value: str(as_written(value))))


def main() -> None:
  """Reads requests from standard input and writes what they describe to the file named."""
  described = [describe_here(request)._asdict() for request in json.load(sys.stdin)]
  write_file(sys.argv[1], json.dumps(described).encode())


if __name__ == "__main__":
  sys.exit(exit_status(main))
