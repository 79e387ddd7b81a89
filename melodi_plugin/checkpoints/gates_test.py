"""Gates and offsets, read from checkpoints as MaxText writes them."""

import math

import numpy as np
import orbax.checkpoint as ocp
import pytest

from melodi_plugin.checkpoints import gates
from melodi_plugin.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write(folder, step, decoder):
  """A checkpoint of parameters, in the layout of MaxText's trainer."""
  items = folder / str(step) / "items"
  ocp.PyTreeCheckpointer().save(items, {"params": {"params": {"decoder": decoder}}})
  return items


def scanned(gate, offset):
  """Layers 0 and 1 with short-term memory, layer 2 with a queue as well."""
  return {
    "layers": {"mlp": np.ones((2, 3), np.float32)},
    "memory_layers_0_to_1": {"offset": np.array([[[offset] * 4, [offset + 1] * 4]], np.float32)},
    "memory_layers_2_to_2": {
      "offset": np.full((1, 1, 4), offset, np.float32),
      "gate": np.full((1, 1, 4, 8), gate, np.float32),
    },
  }


def test_layers_of_a_scanned_checkpoint(tmp_path):
  found = gates.read_gates(str(write(tmp_path, 7, scanned(2.0, -1.0))))
  assert found.step == 7
  assert found.offset == {0: -1.0, 1: 0.0, 2: -1.0}
  assert found.share == {2: pytest.approx(1 / (1 + math.exp(2.0)))}


def test_layers_of_an_unscanned_checkpoint(tmp_path):
  decoder = {
    "memory_layers_0": {"offset": np.full((2, 4), 0.5, np.float32)},
    "memory_layers_3": {"gate": np.zeros((2, 4, 8), np.float32)},
  }
  found = gates.read_gates(str(write(tmp_path, 1, decoder)))
  assert (found.offset, found.share) == ({0: 0.5}, {3: 0.5})


def test_command_prints_every_step_and_draws(tmp_path, capsys):
  for step, gate in ((10, 2.0), (2, 4.0)):
    write(tmp_path / "run" / "checkpoints", step, scanned(gate, 0.0))
  assert main(["gates", f"{tmp_path}/run/checkpoints/*/items"]) == 0
  printed = capsys.readouterr().out
  assert printed.index("0.0180") < printed.index("0.1192")  # step 2 before step 10
  assert "warning" not in printed
  assert (tmp_path / "run" / "gates.png").read_bytes().startswith(b"\x89PNG")


def test_command_takes_what_a_shell_makes_of_a_pattern(tmp_path, capsys):
  written = [
    str(write(tmp_path / "run" / "checkpoints", step, scanned(gate, 0.0)))
    for step, gate in ((10, 2.0), (2, 4.0))
  ]
  assert main(["gates", *written, "--folder", f"{tmp_path}/drawn"]) == 0
  printed = capsys.readouterr().out
  assert printed.index("0.0180") < printed.index("0.1192")  # step 2 before step 10
  assert (tmp_path / "drawn" / "gates.png").exists()
  assert not (tmp_path / "run" / "gates.png").exists()


def test_command_takes_one_run_at_a_time(tmp_path, capsys):
  written = [str(write(tmp_path / run / "checkpoints", 1, scanned(2.0, 0.0))) for run in ("a", "b")]
  assert main(["gates", *written]) == 2
  assert "are checkpoints of several runs" in capsys.readouterr().err


def test_command_warns_of_gates_that_have_hardly_moved(tmp_path, capsys):
  for step, gate in ((10, 1.99), (2, 2.0)):
    write(tmp_path / "run" / "checkpoints", step, scanned(gate, 0.0))
  assert main(["gates", f"{tmp_path}/run/checkpoints/*/items"]) == 0
  assert "warning: gates have moved by at most 0.01 in 8 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
  "checkpoint, folder",
  [
    ("/runs/one/checkpoints/7/items", "/runs/one"),
    ("gs://bucket/one/checkpoints/7/items", "gs://bucket/one"),
    ("/runs/one/grafted/items", "/runs/one"),
  ],
)
def test_picture_belongs_to_the_run(checkpoint, folder):
  assert gates.run_folder(checkpoint) == folder


def test_gates_that_stand_still_are_a_flat_line_with_plain_numbers():
  series = [gates.Gates(step, {0: 0.0, 1: 1e-8}, {0: 0.1192 + 1e-8 * step}, {}) for step in (0, 3)]
  assert gates.draw(series).startswith(b"\x89PNG")


def test_a_stock_checkpoint_has_no_gates(tmp_path, capsys):
  items = write(tmp_path, 0, {"layers": {"mlp": np.ones((2, 3), np.float32)}})
  assert main(["gates", str(items)]) == 2
  assert "holds no gates or offsets" in capsys.readouterr().err
