"""Reports of evaluations side by side: what their tables, files and pictures say."""

import csv
import io
import json

import numpy as np
import pytest

from melodi_plugin.cli.main import main
from melodi_plugin.evaluation import plots, report
from melodi_plugin.evaluation import statistics as scores
from melodi_plugin.output import figures

FILES = {"report.md", "report.csv", "by_position.png", "per_document.png"}


def evaluation(nats=3.0, memory="carried", documents=3, window=16, tokens=100, **keys):
  """What `evaluation.json` holds for one checkpoint, of documents with equal losses."""
  found = []
  for index in range(documents):
    losses = np.full(tokens + 10 * index, nats + 0.1 * index, np.float32)
    text = "be " * 40
    found.append(
      scores.score_document(index, f"play {index}", text, losses, losses > 0, window=window)
    )
  fixed = {"run": "run", "step": "7", "memory": memory, "checkpoint": "runs/7/items"}
  fixed |= {"files": "test.jsonl", "window": window, "skipped": 0, "seconds": 1.5}
  fixed |= {"chunk": None, "new": 4 * window}
  use = {"rows": 2, "batches": 9, "share": 0.9, "padded_share": 0.6, "computed": 1.1}
  return fixed | scores.summarise(found) | {"utilisation": use} | keys


def cells(evaluations, table):
  return {row[0]: row[1:] for row in report.tables(evaluations)[table].rows}


def test_labels_say_what_memory_did_and_what_else_differs():
  carried, control = evaluation(), evaluation(memory="reset at every window")
  assert report.labels([carried, control]) == ["memory carried", "memory reset at every window"]
  other = evaluation(memory="none", run="plain")
  assert report.labels([carried, other]) == ["run, memory carried", "plain, no memory"]
  assert report.labels([carried, carried]) == ["1: memory carried", "2: memory carried"]


def test_evaluations_of_the_same_tokens_are_compared_in_pairs():
  whole = cells([evaluation(3.0), evaluation(2.9, memory="none")], 0)
  assert whole["against the first"] == ["-", "-9.5% (-9.5% to -9.5%)"]
  assert whole["scored tokens"] == ["330", "330"]
  assert "against the first" not in cells([evaluation()], 0)
  assert whole["batch slots with a token"] == ["90.0%", "90.0%"]


def test_other_windows_have_other_buckets_and_other_tokens_a_warning():
  one, two = evaluation(window=16), evaluation(window=32, tokens=90)
  positions = cells([one, two], 1)
  assert positions["16 to 31"][3] == "-" and positions["0 to 31"][2] == "-"
  assert positions["32 to 63"][2:] == ["22.20", "22.20"]
  assert any("did not read the same tokens" in text for text in report.warnings([one, two]))
  assert report.warnings([one]) == []


def test_losses_that_are_not_finite_are_reported_by_document():
  broken = evaluation(float("nan"))
  text = report.markdown([broken, evaluation()])
  assert "not a finite number in 3 of 3 documents" in text
  assert "play 0, play 1, play 2" in text
  assert cells([broken, evaluation()], 0)["perplexity"][0] == "-"


def test_the_markdown_lists_the_first_documents_and_the_csv_all():
  many = evaluation(documents=120)
  documents = report.tables([many])[2]
  assert len(documents.rows) == 100 and "first 100 of 120" in documents.title
  rows = list(csv.DictReader(io.StringIO(report.table_csv([many]))))
  assert sum(row["of"] == "document" for row in rows) == 120
  whole = next(row for row in rows if row["of"] == "all")
  assert float(whole["perplexity"]) == pytest.approx(many["perplexity"])
  assert float(whole["low"]) < float(whole["perplexity"]) < float(whole["high"])


IDS = [
  "$x_{1$ and $y^$",
  r"$\frac{$",
  "a [bold]b[/red]",
  "_id",
  "\u4e2d",
  "a\nb",
  "\x1b[31m",
  "<b>|",
]


@pytest.mark.parametrize("nats", [3.0, float("nan"), float("inf")])
def test_any_id_and_any_loss_can_be_reported(nats):
  one, two = (evaluation(nats, documents=len(IDS), run=run) for run in (r"$\frac{$", "_[b]"))
  for document, name in zip(one["documents"] + two["documents"], IDS * 2, strict=True):
    document["id"] = name
  names = report.labels([one, two])
  assert plots.by_position([one, two], names).startswith(b"\x89PNG")
  assert plots.per_document([one, two], names).startswith(b"\x89PNG")
  whole = report.tables([one, two])[2].markdown().splitlines()
  assert len(whole) == 2 + len(IDS)
  assert "a [bold]b[/red]" in whole[4] and "\x1b" not in "".join(whole)


def test_names_in_pictures_are_as_they_are():
  figure, [axes] = figures.new_figure(2.0)
  for name in ("$a$", r"\$b", "_c"):
    axes.plot([0, 1], label=figures.plain(name))
  figures.png(figure)
  drawn = [text.get_text() for text in figure.legends[0].get_texts()]
  assert drawn == [r"\$a\$", r"\\$b", " _c"]  # a dollar behind a backslash is a dollar


@pytest.mark.parametrize("documents", [1, 3, 60])
def test_the_command_writes_four_files(tmp_path, capsys, documents):
  paths = []
  for number, nats in enumerate((3.0, float("nan"), 2.0)):
    path = tmp_path / f"{number}.json"
    path.write_text(json.dumps([evaluation(nats, documents=documents, window=8 * 2**number)]))
    paths.append(str(path))
  assert main(["report", *paths, f"out={tmp_path / 'out'}"]) == 0
  assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
  for name in ("by_position.png", "per_document.png"):
    assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
  assert "written to" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "no json", "{}", "[]", '[{"perplexity": 1}]', '["a"]'])
def test_what_is_no_evaluation_is_refused_with_a_sentence(tmp_path, capsys, content):
  path = tmp_path / "evaluation.json"
  if content is not None:
    path.write_text(content)
  assert main(["report", str(path), f"out={tmp_path}"]) == 2
  assert str(path) in capsys.readouterr().err


def test_without_a_file_the_command_says_what_it_needs(capsys):
  assert main(["report"]) == 2
  assert "required: evaluation.json" in capsys.readouterr().err


@pytest.mark.parametrize(
  "chunk, new, words",
  [
    (None, 64, "windows of 16 tokens"),
    (64, 64, "chunks of 64 tokens, each alone"),
    (64, 32, "chunks of 64 tokens, of which the first 32 were read before"),
  ],
)
def test_report_says_in_which_pieces_documents_were_read_and_what_was_computed(chunk, new, words):
  read = evaluation(chunk=chunk, new=new)
  assert f"in 2 rows, {words}, in" in report.markdown([read])
  assert cells([read], 0)["tokens computed per token"] == ["1.10"]
