"""The train step compiles for a real TPU topology, ahead of time, on a machine without a TPU."""

import pathlib
import re

import pytest

from integration_tests import running
from integration_tests.topology import QUIET
from melodi_plugin.cost.paper_rows import FOLDER

pytest.importorskip("libtpu", reason="libtpu is not installed (extra tpu-compile of this project)")
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


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


def test_a_row_of_the_paper_compiles_for_its_32_cores_data_parallel(tmp_path):
  """Every core has all of the model and its optimizer, one row, and room for what a step makes."""
  row, folder = str(ROOT / FOLDER / "xl.yml"), f"base_output_directory={tmp_path / 'out'}"
  keys = ("compile_topology=v5e-32", "dataset_type=synthetic", "run_name=xl", folder)
  code, log = running.command("-m", "melodi_plugin", "compile", row, *keys, cwd=tmp_path, **QUIET)
  assert code == 0, log
  found = {m[1]: int(m[2]) for m in re.finditer(r"[ (](argument|temp)_size_in_bytes=(\d+)", log)}
  parameters, moments = 183.9e6, 183.9e6
  assert found["argument"] > 4 * (parameters + moments)  # nothing is sharded
  assert found["argument"] + found["temp"] < 16e9
