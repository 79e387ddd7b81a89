"""The files of a comparison."""

import csv
import io
import json

import pytest

from melodi_plugin.compare import plots, table
from melodi_plugin.compare.results import put_together
from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.cost.paper_rows import BASE, BATCH, FOLDER, ROWS
from melodi_plugin.testing.comparison import (
  make_evaluation,
  make_probe,
  make_request,
  make_result,
  make_row,
)

CHANGED = "melodi_long_term_windows=8"


@pytest.fixture
def found():
  rows = [make_row(changed=[CHANGED]), make_row("window", memory_all=0)]
  runs = [make_result(row, seed, 3.0 + seed / 10) for row in rows for seed in (0, 1)]
  return put_together(rows, runs)


def test_markdown_has_a_line_per_row_and_says_how_it_was_measured(found):
  request = make_request("memory", "window", seeds=(0, 1, 2))._replace(key=CHANGED.split("=")[0])
  text = table.markdown(
    request, found, ["x_seed0: training ended with status 1; see x.log"], ["loss.png"]
  )
  lines = text.splitlines()
  head = next(line for line in lines if "test perplexity" in line)
  row = next(line for line in lines if line.startswith("| memory "))
  columns = [cell.strip() for cell in head.split("|")]
  cells = dict(zip(columns[2:-1], [cell.strip() for cell in row.split("|")][2:-1], strict=True))
  assert cells["parameters"] == "1,000" and cells["without embedding"] == "900"
  assert (cells["memory, all"], cells["short"], cells["long"]) == ("192", "64", "128")
  assert cells["slot"] == "4,096 B"
  assert cells["peak memory"] == "1,024 MiB host" and "±" in cells["test perplexity"]
  assert "**Failed.** x_seed0" in text and "memory: 2 of 3 seeds" in text
  assert "4 steps of 128 tokens" in text and "![loss](loss.png)" in text
  assert "another melodi_long_term_windows" in text and f"| {CHANGED} |" in text
  assert "+0.0% (+0.0% to +0.0%)" in next(line for line in lines if line.startswith("| window"))


def test_what_the_paper_prints_stands_beside_its_rows_as_they_are():
  defaults = MelodiKeys().model_dump()
  keys = {row.name: BASE | row.keys for row in ROWS}
  settings = {
    "global_batch_size_to_train_on": BATCH,
    "grain_train_files": "",
    "grain_eval_files": "",
  }

  def paper_row(name: str, **changed):
    own = defaults | settings | keys[name] | changed
    return make_row(name)._replace(config=f"{FOLDER}/{name}.yml", settings=own)

  rows = [
    paper_row("xl"),
    paper_row("headline_s128_l64"),
    paper_row("s192_l96", steps=500, learning_rate=0.1, per_device_batch_size=8),
    paper_row("memorizing", global_batch_size_to_train_on=16),
    paper_row("block_recurrent", melodi_reference_defects=True),
    make_row("s128_l64"),  # a file of that name elsewhere
  ]
  found = put_together(rows, [make_result(row, 0, 3.0) for row in rows])
  made = table.table(found)
  shown = {row[0]: dict(zip(made.header, row, strict=True)) for row in made.rows}
  assert shown["xl"]["printed, PG-19 T5"] == "11.54"
  assert shown["xl"]["printed, C4(4K+) custom"] == "18.61"
  assert shown["headline_s128_l64"]["printed, PG-19 T5"] == "10.44"
  assert shown["headline_s128_l64"]["printed, PG-19 Meena"] == "-"
  for name in ("s192_l96", "memorizing", "block_recurrent", "s128_l64"):
    assert {shown[name][column] for column in made.header if "printed" in column} == {"-"}
  request = make_request(*shown)
  text = table.markdown(request, found, [], [])
  assert "s192_l96 is not as in the paper" in text and "differs in steps, learning_rate." in text
  assert "memorizing is not as in the paper" in text and "differs in the rows of a step." in text
  assert "s128_l64 is not" not in text and "xl is not" not in text
  content = json.loads(table.table_json(request, found, []))
  assert content["rows"][0]["printed_perplexity"]["arXiv Meena"] == 2.61


def test_csv_has_a_line_per_seed_and_evaluation(found):
  lines = list(csv.DictReader(io.StringIO(table.table_csv(found))))
  assert [(x["row"], x["seed"], x["evaluated_with"]) for x in lines] == [
    ("memory", "0", ""),
    ("memory", "0", CHANGED),
    ("memory", "1", ""),
    ("memory", "1", CHANGED),
    ("window", "0", ""),
    ("window", "1", ""),
  ]
  assert lines[1]["memory_all"] == "384" and lines[1]["parameters"] == "1000"
  assert lines[0]["seconds_of_last_process"] == "9.0" and "seconds" not in lines[0]


def test_json_has_everything(found):
  content = json.loads(table.table_json(make_request("memory", "window"), found, []))
  memory, window = content["rows"]
  assert [line["seed"] for line in memory["per_seed"]] == [0, 1]
  assert len(memory["per_seed"][0]["losses"]) == 4
  assert [d["id"] for d in memory["per_seed"][0]["documents"]] == ["play 0", "play 1", "play 2"]
  assert memory["evaluated_with"][0]["argument"] == CHANGED
  assert window["evaluated_with"] == [] and window["change_against_first"] == pytest.approx(0)


def test_pictures_are_drawn(found):
  drawn = plots.pictures(found)
  assert drawn.keys() == {
    "loss.png",
    "bytes.png",
    "memory.png",
    "position.png",
    "memory_after_training.png",
  }
  assert all(content.startswith(b"\x89PNG") for content in drawn.values())


def test_value_as_trained_stays_beside_one_of_the_same_memory(found):
  memory = found[0]
  (larger,) = memory.changed
  same = larger._replace(argument="melodi_reset_every_window=true", sizes=memory.row.sizes)
  curve = plots.memory_curve(memory._replace(changed=[larger, same]))
  assert curve == {192: memory.perplexity, 384: larger.perplexity}


def test_loss_that_is_not_finite_is_a_gap():
  row = make_row()
  broken = {"evaluation": make_evaluation(float("nan")), "losses": [[0, 3.0], [1, None]]}
  found = put_together([row], [make_result(row, 0, 3.0, **broken)])
  assert plots.pictures(found).keys() == {"loss.png"}
  text = table.markdown(make_request("memory"), found, [], [])
  assert "not finite" in text
  json.loads(table.table_json(make_request("memory"), found, []))


def test_long_loss_curves_are_averaged():
  row = make_row()
  losses = [[step, float(step)] for step in range(1050)]
  (found,) = put_together([row], [make_result(row, 0, 3.0, losses=losses)])
  steps, curves = plots.loss_curves(found)
  assert steps.shape == (95,) and curves.shape == (1, 95)
  assert steps[:2] == pytest.approx([5.0, 16.0]) and curves[0] == pytest.approx(steps)


def test_what_a_probe_found_in_every_run_is_side_by_side():
  row, other = make_row(), make_row("window")
  assert table.probe_files([make_result(row, 0, 3.0)]) == {}
  results = [make_result(own, 0, 3.0, probed=make_probe(own.name)) for own in (row, other)]
  files = table.probe_files(results)
  assert files.keys() == {"probe_mqar.md", "probe_mqar.png"}
  text = files["probe_mqar.md"].decode()
  assert "memory, seed 0: right" in text and "window, seed 0: right" in text
