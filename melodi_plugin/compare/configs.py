"""What MaxText makes of a config, and the sizes of its model.

MaxText keeps state of its own in a process, and holds the accelerator, so this is found out in a
short process (this file, as a command) before any training begins.
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from melodi_plugin.compare.request import PLACES, SEEDS
from melodi_plugin.launch import load_config, stop


class Described(NamedTuple):
  """A config, as it will be run."""

  settings: dict[str, Any]  # every key of MaxText and ours that can change a result
  sizes: dict[str, Any]  # fields of `melodi_plugin.sizes.Sizes`


def describe(requests: Sequence[Sequence[str]]) -> list[Described]:
  """Describes configs, each given as [config.yml, key=value, ...]; a bad one ends the program."""
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
      stop(said[-1].removeprefix("error: ") if said else "the configs cannot be read; see above.")
    return [Described(**found) for found in json.loads(answer.read_text())]


def describe_here(request: Sequence[str]) -> Described:
  """Describes one config in this process; a bad one ends it with status 2."""
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      config = load_config(["", *request])
  except SystemExit:
    stop(f"{request[0]}: {said.getvalue().splitlines()[-1].removeprefix('error: ')}")
  from melodi_plugin.sizes import sizes

  try:
    return Described(settings_of(config.get_keys()), dict(sizes(config)._asdict()))
  except (ValueError, NotImplementedError) as error:
    stop(f"{request[0]}: {error}")


def settings_of(keys: dict[str, Any]) -> dict[str, Any]:
  """The keys that can change a result, ready for JSON: not where it is written, nor the seed."""
  out = keys.get("base_output_directory") or None

  def kept(key: str, value: Any) -> bool:
    if key in (*PLACES, *SEEDS) or key.startswith("dump_"):
      return False
    return not (out and isinstance(value, str) and value.startswith(out))

  found = {key: value for key, value in sorted(keys.items()) if kept(key, value)}
  return json.loads(json.dumps(found, default=str))


def main() -> None:
  """Reads requests from standard input and writes what they describe to the file named."""
  described = [describe_here(request)._asdict() for request in json.load(sys.stdin)]
  pathlib.Path(sys.argv[1]).write_text(json.dumps(described))


if __name__ == "__main__":
  main()
