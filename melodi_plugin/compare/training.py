"""`python -m melodi_plugin.compare.training OUT.json config.yml key=value …`: one training run.

Trains as `melodi train` does and, when it has ended well, writes to OUT.json how much memory
this process took at most.  That file is therefore also the sign that training is complete.
"""

import json
import resource
import sys
import time
from collections.abc import Sequence

import jax

from melodi_plugin.errors import exit_status
from melodi_plugin.maxtext.launch import train
from melodi_plugin.output.files import write_file


def peak_host_bytes() -> int:
  """The most memory that this process has had resident."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def peak_device_bytes() -> int | None:
  """The most memory in use on one accelerator; None where it is not counted, as on a CPU."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return max((s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s), default=None)


def main(argv: Sequence[str]) -> None:
  """Command line of `training`."""
  program, out, *arguments = argv
  began = time.monotonic()
  train([program, *arguments])
  measured = {
    "peak_host_bytes": peak_host_bytes(),
    "peak_device_bytes": peak_device_bytes(),
    "seconds": time.monotonic() - began,
  }
  write_file(out, json.dumps(measured).encode())  # whole, or a kill would end all later runs


if __name__ == "__main__":
  sys.exit(exit_status(lambda: main(sys.argv)))
