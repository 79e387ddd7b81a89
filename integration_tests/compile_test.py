"""The train step compiles for a real TPU topology, ahead of time, on a machine without a TPU."""

import re

import pytest

from integration_tests import running

pytest.importorskip("libtpu", reason="libtpu is not installed (extra tpu-compile of this project)")
pytestmark = pytest.mark.slow

# For a machine that is none of Google's, and several tests at once.
QUIET = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
}


@pytest.mark.parametrize("schedule", ["layers", "windows"])
def test_train_step_compiles_for_sixteen_tpu_chips(tmp_path, schedule):
  keys = {
    "compile_topology": "v5e-16",
    "compile_topology_num_slices": 1,
    "melodi_schedule": schedule,
    "compiled_trainstep_file": str(tmp_path / "step.pickle"),
    "base_output_directory": str(tmp_path / "out"),
    "dtype": "bfloat16",
  }
  config = running.write_yaml(tmp_path / "tpu.yml", **(running.TINY | running.MELODI | keys))
  arguments = ("-m", "melodi_plugin", "compile", str(config))
  code, log = running.command(*arguments, cwd=tmp_path, **QUIET)
  assert code == 0, log
  assert re.search(r"Jitting and compilation complete|Saved compiled", log), log
  assert (tmp_path / "step.pickle").stat().st_size > 10_000
