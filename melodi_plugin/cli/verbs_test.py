"""Verbs that no test of what they do runs as a command: `data mqar`, `data padding`, and others."""

import json
import re

import pytest

from melodi_plugin.bench import windows
from melodi_plugin.cli import bench
from melodi_plugin.cli.main import main
from melodi_plugin.data.corpus import presets
from melodi_plugin.testing.tiny import tiny_config


@pytest.mark.parametrize("words", [["data", "mqar"], ["data", "recall"]])
def test_data_makes_the_corpus_of_a_recall_task(words, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(presets._DOCUMENTS, "train", 50)
  assert main([*words, str(tmp_path / "corpus")]) == 0
  splits = json.loads((tmp_path / "corpus/manifest.json").read_text())["splits"]
  found = {name: split["documents"] for name, split in splits.items()}
  assert found == {"train": 50, "validation": 200, "test": 0}
  assert "50" in capsys.readouterr().out


def test_data_padding_says_what_every_way_of_reading_pads(tmp_path, capsys):
  lines = (json.dumps({"id": str(i), "text": f"Line {i}.\n" * (i + 5)}) for i in range(40))
  (tmp_path / "all.jsonl").write_text("\n".join(lines))
  source, out = str(tmp_path / "all.jsonl"), tmp_path / "corpus"
  assert main(["data", "build", str(out), source, "--train-tokenizer", "300"]) == 0
  sizes = ["--rows", "4", "--window", "8", "--segment", "32"]
  model = ["--tokenizer", str(out / "tokenizer.model")]
  capsys.readouterr()
  assert main(["data", "padding", f"{out}/train-*.array_record", *model, *sizes]) == 0
  shown = capsys.readouterr().out
  assert "4 rows, windows of 8, segments of 32" in " ".join(shown.split())
  ways = ("tails of windows", "ends of rows", "together")
  assert len(re.findall(r"\d\.\d\d%", shown)) == 5 * len(ways)
  assert main(["data", "padding", source, *model, *sizes[:-1], "20"]) == 2
  said = "--segment 20 is not a whole number of windows of --window 8; make it a multiple."
  assert capsys.readouterr().err == f"error: {said}\n"


def test_paper_configs_are_written_and_checked(tmp_path):
  assert main(["paper-configs", str(tmp_path)]) == 0
  assert main(["paper-configs", str(tmp_path), "--check"]) == 0


def bench_windows(*words: str) -> int:
  return main(["bench", "windows", "--schedules", "layers", "--repeats", "1", *words])


@pytest.mark.broad
def test_bench_prints_a_row_of_figures(monkeypatch, capsys):
  for module in (windows, bench):
    monkeypatch.setattr(module, "CONFIG", tiny_config())
  assert bench_windows("--windows", "2", "--remat", "full") == 0
  header, _, row = capsys.readouterr().out.splitlines()[-3:]
  cells = [cell.strip() for cell in row.split("|")[1:-1]]
  found = dict(zip((name.strip() for name in header.split("|")[1:-1]), cells, strict=True))
  assert found["schedule, remat"] == "layers, full" and found["tokens of a row"] == "16"
  assert found["the same, fewest windows = 1"] == "1.00" and float(found["step CPU s, median"]) >= 0


def test_bench_windows_knows_the_names_of_remat_policies(capsys):
  assert bench_windows("--remat", "none", "custom") == 2
  said = capsys.readouterr().err
  assert "custom is no remat policy of MaxText that stands alone; take none, full, minimal" in said
