"""Evaluations side by side, of one model or of several.

A report is a folder of `report.md`, `report.csv`, `by_position.png` and `per_document.png`.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from melodi_plugin.evaluation import plots
from melodi_plugin.evaluation.statistics import RATES, change, same_tokens
from melodi_plugin.output.files import read_json, write_files
from melodi_plugin.output.tables import Table

Evaluation = dict[str, Any]

_LONG = 100  # documents that a Markdown table lists; the CSV has all


# -- Names -----------------------------------------------------------------------------------------


def memory_words(evaluation: Evaluation) -> str:
  """What memory did: 'memory carried', 'memory reset at every window' or 'no memory'."""
  memory = evaluation["memory"]
  return "no memory" if memory == "none" else f"memory {memory}"


def labels(evaluations: Sequence[Evaluation]) -> list[str]:
  """Short and different names: what memory did, and what else tells the evaluations apart."""
  parts = [(e["run"], f"step {e['step']}", memory_words(e)) for e in evaluations]
  telling = [place for place in range(3) if place == 2 or len({part[place] for part in parts}) > 1]
  names = [", ".join(part[place] for place in telling) for part in parts]
  if len(set(names)) == len(names):
    return names
  return [f"{number}: {name}" for number, name in enumerate(names, start=1)]


def _number(value: float | None, digits: int = 2) -> str:
  return "-" if value is None else f"{value:,.{digits}f}"


# -- Tables ----------------------------------------------------------------------------------------


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
  """The whole documents, the positions in a document, and the documents one by one."""
  return [_overall(evaluations), _by_position(evaluations), _per_document(evaluations)]


def _overall(evaluations: Sequence[Evaluation]) -> Table:
  columns = []
  for e in evaluations:
    column = [f"{len(e['documents']):,}", f"{e['tokens']:,}", _number(e["perplexity"])]
    column.append("-" if e["interval"] is None else " to ".join(map(_number, e["interval"])))
    changed = None if e is evaluations[0] else change(e, evaluations[0])
    column.append("-" if changed is None else str(changed))
    column += [_number(e["word_perplexity"]), _number(e["bits_per_byte"], 3)]
    use = e["utilisation"]
    shares = (f"{share:.1%}" for share in (e["accuracy"], use["share"], use["padded_share"]))
    columns.append([*column, *shares, _number(use["computed"])])
  names = ["documents", "scored tokens", "perplexity", "95 % interval", "against the first"]
  names += ["perplexity per word", "bits per byte", "first choice right"]
  names += ["batch slots with a token", "if batches waited for their longest"]
  names += ["tokens computed per token"]
  rows = [list(row) for row in zip(names, *columns, strict=True)]
  if len(evaluations) == 1:
    del rows[names.index("against the first")]
  return Table("Whole documents", ["", *labels(evaluations)], rows)


def _by_position(evaluations: Sequence[Evaluation]) -> Table:
  """Rows are buckets; models with other windows have other buckets."""
  buckets: dict[tuple[int, int], dict[int, Any]] = {}
  for number, evaluation in enumerate(evaluations):
    for row in evaluation["positions"]:
      buckets.setdefault((row["from"], row["to"]), {})[number] = row
  rows = []
  for (first, end), found in sorted(buckets.items()):
    one = next(iter(found.values()))
    row = [f"{first:,} to {end - 1:,}", f"{one['documents']:,}", f"{one['tokens']:,}"]
    for number in range(len(evaluations)):
      row.append(_number(found[number]["perplexity"]) if number in found else "-")
    rows.append(row)
  header = ["position", "documents", "tokens", *labels(evaluations)]
  return Table("Perplexity by position of the token in its document", header, rows)


def _per_document(evaluations: Sequence[Evaluation]) -> Table:
  found: dict[str, dict[int, Any]] = {}
  for number, evaluation in enumerate(evaluations):
    for document in evaluation["documents"]:
      found.setdefault(document["id"], {})[number] = document
  rows = []
  for name, by_number in found.items():
    row = [name, f"{next(iter(by_number.values()))['tokens']:,}"]
    for number in range(len(evaluations)):
      row.append(_number(by_number[number]["perplexity"]) if number in by_number else "-")
    rows.append(row)
  title = "Perplexity per document"
  if len(rows) > _LONG:
    title += f" (the first {_LONG} of {len(rows):,}; report.csv has all)"
  return Table(title, ["document", "tokens", *labels(evaluations)], rows[:_LONG])


# -- What the reader has to know -------------------------------------------------------------------


def warnings(evaluations: Sequence[Evaluation]) -> list[str]:
  """Sentences on numbers that do not mean what they seem to mean."""
  found = []
  for name, evaluation in zip(labels(evaluations), evaluations, strict=True):
    if broken := evaluation["not_finite"]:
      more = f" and {len(broken) - 10:,} more" if len(broken) > 10 else ""
      found.append(
        f"{name}: the loss is not a finite number in {len(broken):,} of "
        f"{len(evaluation['documents']):,} documents, so there is no perplexity of the whole: "
        f"{', '.join(broken[:10])}{more}."
      )
    if evaluation["skipped"]:
      found.append(f"{name}: {evaluation['skipped']:,} broken documents were left out.")
  if any(evaluation.get("scored") == "answers" for evaluation in evaluations):
    found.append(
      "Of conversations only answers were scored, with the tokens that end them; words and bytes "
      "are those of the answers."
    )
  first, *others = evaluations
  if not all(same_tokens(first, other) for other in others):
    found.append(
      "The evaluations did not read the same tokens; compare them by perplexity per word and bits "
      "per byte, and only where the documents are the same."
    )
  if any(evaluation["memory"] == "reset at every window" for evaluation in evaluations):
    found.append(
      "Memory reset at every window is out of distribution for a model that was trained to carry "
      "it; the fair comparison is a model trained without memory."
    )
  return found


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
  notes = [
    "Every token of a document but its first is scored once.  Per word: exp(nats / words), words "
    "separated by white space; bits per byte: of the UTF-8 text.",
    "95 % interval: documents resampled 1000 times, weighed by their tokens; against the first "
    "evaluation: the same documents drawn for both.",
    "Batch slots: a row that ends its document takes the next one at once; the other number is "
    "what batches of whole documents, each padded to its longest, would have had.  Computed: with "
    "padding, and with what is read again.",
  ]
  for name, e in zip(labels(evaluations), evaluations, strict=True):
    use = e["utilisation"]
    notes.append(
      f"{name}: {e['run']}, step {e['step']} (`{e['checkpoint']}`), read from `{e['files']}` in "
      f"{use['rows']} rows, {_pieces(e)}, in {e['seconds']:,.0f} s."
    )
  return notes


def _pieces(evaluation: Evaluation) -> str:
  """In which pieces a document was read."""
  chunk, new = evaluation["chunk"], evaluation["new"]
  if chunk is None:
    return f"windows of {evaluation['window']} tokens"
  if chunk == new:
    return f"chunks of {chunk} tokens, each alone"
  return f"chunks of {chunk} tokens, of which the first {chunk - new} were read before"


# -- Files -----------------------------------------------------------------------------------------


def markdown(evaluations: Sequence[Evaluation]) -> str:
  """The content of `report.md`."""
  lines = ["# Evaluation", ""]
  for warning in warnings(evaluations):
    lines += [f"**Note.** {warning}", ""]
  pictures = ["", "![perplexity by position](by_position.png)", "![per document](per_document.png)"]
  for table, picture in zip(tables(evaluations), pictures, strict=True):
    lines += [f"## {table.title}", "", table.markdown()]
    lines += [picture, ""] if picture else []
  lines += ["## How it was measured", "", *(f"- {note}" for note in _notes(evaluations)), ""]
  return "\n".join(lines)


def table_csv(evaluations: Sequence[Evaluation]) -> str:
  """The content of `report.csv`: a line per evaluation, position bucket and document."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  head = ["run", "step", "memory", "of", "name", "tokens", "words", "bytes", "nats"]
  writer.writerow([*head, *RATES, "low", "high"])
  for evaluation in evaluations:
    own = [evaluation["run"], evaluation["step"], evaluation["memory"]]

    def write(of: str, name: str, row: dict[str, Any], own: list[str] = own) -> None:
      values = [row.get(key) for key in ("tokens", "words", "bytes", "nats", *RATES)]
      writer.writerow([*own, of, name, *values, *(row.get("interval") or (None, None))])

    write("all", "", evaluation)
    for row in evaluation["positions"]:
      write("position", f"{row['from']}-{row['to'] - 1}", row)
    for document in evaluation["documents"]:
      write("document", document["id"], document)
  return text.getvalue()


def write_report(evaluations: Sequence[Evaluation], folder: str) -> None:
  """Writes the four files into `folder`, which may be remote."""
  names = labels(evaluations)
  write_files(
    folder,
    {
      "report.md": markdown(evaluations).encode(),
      "report.csv": table_csv(evaluations).encode(),
      "by_position.png": plots.by_position(evaluations, names),
      "per_document.png": plots.per_document(evaluations, names),
    },
  )


def read_evaluations(path: str) -> list[Evaluation]:
  """What an `evaluation.json` holds; raises ValueError if it is none."""
  found = read_json(path)
  ours = isinstance(found, list) and all(
    isinstance(e, dict) and {"positions", "new"} <= e.keys() for e in found
  )
  if not (ours and found):
    raise ValueError(f"{path} is not an evaluation.json of `melodi evaluate`.")
  return found
