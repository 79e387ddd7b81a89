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


def test_paper_configs_are_written_and_checked(tmp_path):
  assert main(["paper-configs", str(tmp_path)]) == 0
  assert main(["paper-configs", str(tmp_path), "--check"]) == 0


def test_bench_prints_a_row_of_figures(monkeypatch, capsys):
  for module in (windows, bench):
    monkeypatch.setattr(module, "CONFIG", tiny_config())
  assert (
    main(["bench", "windows", "--windows", "2", "--schedules", "layers", "--repeats", "1"]) == 0
  )
  row = capsys.readouterr().out.splitlines()[-1]
  assert row.startswith("| layers | 2 (16) | ") and row.count("|") == 9
