"""`melodi bench compile` from end to end, for TPUs that are not here."""

import json

import pytest

from integration_tests import running
from integration_tests.topology import QUIET

pytest.importorskip("libtpu", reason="libtpu is not installed (extra tpu-compile of this project)")


@pytest.mark.slow
def test_every_chip_draws_its_own_random_bits_and_traffic_is_counted_in_loops(tmp_path):
  """Rows of one chip: a chip that drew for all 16 would need arrays of 16 times as many."""
  keys = {
    "compile_topology": "v5e-16",
    "base_output_directory": str(tmp_path / "out"),
    "dtype": "bfloat16",
    "dropout_rate": 0.1,
    "remat_policy": "full",
  }
  config = running.write_yaml(tmp_path / "tpu.yml", **(running.TINY | running.MELODI | keys))
  arguments = ("-m", "melodi_plugin", "bench", "compile", str(config), "--json", "found.json")
  code, log = running.command(*arguments, cwd=tmp_path, **QUIET)
  assert code == 0, log
  found = json.loads((tmp_path / "found.json").read_text())
  memory, stock = found["with memory"], found["stock decoder"]
  assert memory["products"] > stock["products"] > 0
  assert memory["arguments"] > stock["arguments"] > 0
  assert {"all-gather", "all-reduce"} <= {own["kind"] for own in memory["collectives"]}
  assert any(own["loops"] for own in memory["collectives"])
  batch = 16 * running.TINY["per_device_batch_size"]
  bits = [own["shape"] for own in memory["buffers"] if own["shape"].startswith("u32[")]
  assert bits and not [shape for shape in bits if shape.startswith(f"u32[{batch},")], bits
