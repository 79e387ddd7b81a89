"""Points, tables and files of a probe, and the comparison of several."""

import itertools
import json
import types

import numpy as np
import pytest

from melodi_plugin.cli import report as command
from melodi_plugin.cli.main import main
from melodi_plugin.evaluation.probes import pages, result
from melodi_plugin.evaluation.probes.result import Answer
from melodi_plugin.testing.comparison import make_probe


def test_points_leave_out_distances_without_answers():
  points = result.points(
    [Answer(1, True, 1.0), Answer(3, False, 2.0), Answer(4, True, 4.0)],
    [(0, 0), (1, 1), (2, 2), (3, 4)],
  )
  assert [(p["from"], p["to"], p["count"]) for p in points] == [(1, 1, 1), (3, 4, 2)]
  assert points[1]["accuracy"] == 0.5 and points[1]["nats"] == 3.0


def test_the_interval_is_wilsons():
  rates = result.rates(np.array([True] * 8 + [False] * 2), np.ones(10))
  assert (rates["low"], rates["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-3)
  assert result.rates(np.array([True]), np.array([np.inf]))["nats"] is None


@pytest.mark.parametrize(
  ("furthest", "last"), [(0, (1, 1)), (1, (1, 1)), (2, (2, 2)), (3, (3, 4)), (9, (9, 16))]
)
def test_doubling_ranges_hold_the_furthest_distance(furthest, last):
  ranges = result.doubling_ranges(furthest)
  assert ranges[0] == (0, 0) and ranges[-1] == last
  assert all(b[0] == a[1] + 1 for a, b in itertools.pairwise(ranges))


def test_files_hold_the_result(tmp_path):
  config = types.SimpleNamespace(
    base_output_directory=str(tmp_path), run_name="a", melodi_reset_every_window=False
  )
  found = make_probe("a")
  pages.write(config, found)
  assert json.loads((tmp_path / "a/probe_mqar.json").read_text()) == found
  assert (tmp_path / "a/probe_mqar.csv").read_text().count("\n") == 5
  assert "| 3       |     5 | 60.0% | 1.50 |" in (tmp_path / "a/probe_mqar.md").read_text()
  assert (tmp_path / "a/probe_mqar.png").read_bytes().startswith(b"\x89PNG")
  config.melodi_reset_every_window = True
  pages.write(config, found)
  assert (tmp_path / "a/probe_mqar_reset_every_window.json").exists()


def test_first_uses_have_a_row_of_their_own():
  found = make_probe(
    "a", probe="rare_words", first_use=result.rates(np.array([False]), np.array([9.0]))
  )
  table = result.table([found])
  assert table.rows[0] == ["first use", "1", "0.0%", "9.00"]
  assert ",,,1,0.0" in pages.table_csv([found]).splitlines()[1]


def test_compare_puts_results_side_by_side(tmp_path):
  paths = []
  for run, memory in (("a", "carried"), ("b", "none")):
    path = tmp_path / f"{run}.json"
    path.write_text(json.dumps(make_probe(run, memory=memory)))
    paths.append(str(path))
  main(["probes", paths[0], f"without=memory={paths[1]}", f"out={tmp_path}/both.png"])
  text = (tmp_path / "both.md").read_text()
  assert "a, memory carried: right" in text and "without=memory: right" in text
  assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("content", "sentence"),
  [("{}", "is not a probe"), ("no JSON", "cannot read"), (None, "cannot read")],
)
def test_what_is_no_result_is_refused(tmp_path, capsys, content, sentence):
  path = tmp_path / "x.json"
  if content is not None:
    path.write_text(content)
  assert main(["probes", str(path)]) == 2
  assert sentence in capsys.readouterr().err


def test_results_of_different_probes_are_refused(tmp_path):
  paths = []
  for probe in ("mqar", "passkey"):
    paths.append(tmp_path / f"{probe}.json")
    paths[-1].write_text(json.dumps(make_probe("a", probe=probe)))
  with pytest.raises(ValueError, match="mqar and passkey"):
    command.compare([*map(str, paths)], ["", ""], str(tmp_path / "x.png"))
