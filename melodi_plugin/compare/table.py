"""A comparison as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from melodi_plugin.compare.request import Request, tokens_per_step, unequal_slots
from melodi_plugin.compare.results import SPREAD, Over, RowResult, per_seed
from melodi_plugin.compare.runs import Result, Row
from melodi_plugin.cost.paper_rows import Match, match
from melodi_plugin.cost.printed import perplexity_columns
from melodi_plugin.evaluation.probes import pages, plots
from melodi_plugin.output.tables import Table, with_unit

_MIB = 2**20


def table(rows: Sequence[RowResult]) -> Table:
  """The rows side by side; beside rows of the paper what it prints of them."""
  low, high = (f"{100 * part:.0f}" for part in SPREAD)
  header = ["", "parameters", "without embedding", "memory, all", "short", "long"]
  header += [
    "slot",
    "tokens/s",
    "peak memory",
    "test perplexity",
    f"documents, {low}th to {high}th percentile",
  ]
  header.append("against the first (95 %)")
  more, printed = perplexity_columns([_printed(found.row) for found in rows])
  cells = [_cells(found) + own for found, own in zip(rows, printed, strict=True)]
  return Table("Comparison", [*header, *more], cells)


def _match(row: Row) -> Match | None:
  """Which row of the paper this is, and in what it differs from it."""
  return match(row.config, row.settings.get, row.settings["global_batch_size_to_train_on"])


def _printed(row: Row) -> Mapping[str, float]:
  """The paper's perplexities of a row that was run as the paper has it."""
  found = _match(row)
  return found.row.printed.perplexity if found and not found.changed else {}


def _cells(found: RowResult) -> list[str]:
  sizes = found.row.sizes
  peak, kind = found.peak_bytes
  numbers = (
    sizes["parameters"],
    sizes["parameters"] - sizes["embedding_parameters"],
    sizes["memory_all"],
    sizes["memory_short"],
    sizes["memory_long"],
  )
  documents = (
    "-" if found.documents is None else " to ".join(f"{end:,.2f}" for end in found.documents)
  )
  return [
    found.row.name,
    *map(with_unit, numbers),
    "-" if sizes["slot_bytes"] is None else with_unit(sizes["slot_bytes"], "B"),
    f"{found.tokens_per_second:,.0f}",
    f"{peak / _MIB:,.0f} MiB {kind}",
    _over(found.perplexity),
    documents,
    "-" if found.change is None else str(found.change),
  ]


def changed_table(rows: Sequence[RowResult], key: str) -> Table:
  """The trained rows, read with a key changed."""
  lines = []
  for found in rows:
    if found.changed:
      own = with_unit(found.row.sizes["memory_all"])
      lines.append([found.row.name, "as trained", own, _over(found.perplexity)])
    for changed in found.changed:
      memory = with_unit(changed.sizes["memory_all"])
      lines.append([found.row.name, changed.argument, memory, _over(changed.perplexity)])
  title = f"Trained as above, then read with another {key}"
  return Table(title, ["", "evaluated with", "memory, all", "test perplexity"], lines)


def _over(value: Over | None) -> str:
  if value is None:
    return "not finite"
  return f"{value.mean:,.2f}" + ("" if value.deviation is None else f" ± {value.deviation:,.2f}")


def markdown(
  request: Request,
  rows: Sequence[RowResult],
  failures: Sequence[str],
  pictures: Iterable[str],
) -> str:
  """The content of `comparison.md`; `pictures` are files beside it."""
  made = table(rows)
  lines = [f"# {made.title}", "", made.markdown(), *_notes(request, rows)]
  lines += [f"- **Failed.** {failure}." for failure in failures]
  if any(found.changed for found in rows):
    changed = changed_table(rows, request.key)
    lines += ["", f"## {changed.title}", "", changed.markdown()]
  for picture in pictures:
    lines += ["", f"![{picture.removesuffix('.png')}]({picture})"]
  return "\n".join([*lines, ""])


def _notes(request: Request, rows: Sequence[RowResult]) -> list[str]:
  settings = rows[0].row.settings
  seeds = ", ".join(map(str, request.seeds))
  notes = [
    f"- `{request.command}`",
    f"- Every row: {settings['steps']:,} steps of {tokens_per_step(settings):,} tokens, seeds "
    f"{seeds}; read from `{settings['grain_train_files']}`, tested on "
    f"`{settings['grain_eval_files']}`.",
    "- Memory: stored numbers per batch row, as the paper counts them.  Slot: all bytes of a row "
    "that decodes, as an engine keeps it.  tokens/s: median over the steps but the first few; of "
    "text, without padding.  Peak memory: of the training process, compiling included.",
    "- Test perplexity: mean and standard deviation over seeds.  Documents and the change against "
    "the first row: of the losses' mean over seeds; its interval resamples documents, not seeds.",
  ]
  if any(_printed(found.row) for found in rows):
    notes.append(
      "- Printed: the paper's perplexity of that row, on that corpus in that vocabulary; it says "
      "something about a run on the same text in the same tokens only."
    )
  if unequal := unequal_slots({found.row.name: found.row.hides_empty_slots for found in rows}):
    notes.append(f"- **Unequal rows**: {unequal}.")
  for found in rows:
    if (paper := _match(found.row)) and paper.changed:
      notes.append(
        f"- {found.row.name} is not as in the paper, so nothing printed stands beside it: it "
        f"differs in {', '.join(paper.changed)}."
      )
    if len(found.results) < len(request.seeds):
      notes.append(f"- {found.row.name}: {len(found.results)} of {len(request.seeds)} seeds.")
  return notes


def table_csv(rows: Sequence[RowResult]) -> str:
  """The content of `comparison.csv`: a line per row, seed and key=value it was evaluated with."""
  lines = [line for found in rows for line in per_seed(found)]
  file = io.StringIO()
  writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return file.getvalue()


def table_json(request: Request, rows: Sequence[RowResult], failures: Sequence[str]) -> str:
  """The content of `comparison.json`."""
  content = {
    "configs": request.configs,
    "overrides": request.overrides,
    "seeds": request.seeds,
    "rows": [_row_json(found) for found in rows],
    "failed": list(failures),
  }
  return json.dumps(content, indent=2, allow_nan=False) + "\n"


def probe_files(results: Sequence[Result]) -> dict[str, bytes]:
  """What a probe has found in all runs side by side, as files by name; none if it was not asked."""
  found = {f"{r['row']}, seed {r['seed']}": r["probed"] for r in results if r.get("probed")}
  if not found:
    return {}
  names, probed = list(found), list(found.values())
  name = f"probe_{probed[0]['probe']}"
  picture = plots.against_distance(probed, names)
  return {f"{name}.md": pages.markdown(probed, names).encode(), f"{name}.png": picture}


def _row_json(found: RowResult) -> dict[str, Any]:
  return {
    "row": found.row.name,
    "config": found.row.config,
    **found.row.sizes,
    "tokens_per_second": found.tokens_per_second,
    "perplexity": _over_json(found.perplexity),
    "printed_perplexity": _printed(found.row),
    "documents_10th_to_90th_percentile": found.documents,
    "change_against_first": found.change and found.change.mean,
    "change_interval": found.change and found.change.within,
    "mean_over_seeds": found.evaluation,
    "evaluated_with": [
      {"argument": c.argument, **c.sizes, "perplexity": _over_json(c.perplexity)}
      for c in found.changed
    ],
    "per_seed": [
      line | {"documents": result["evaluation"]["documents"], "losses": result["losses"]}
      for result, line in zip(
        found.results, (x for x in per_seed(found) if not x["evaluated_with"]), strict=True
      )
    ],
    "per_seed_evaluated_with": [x for x in per_seed(found) if x["evaluated_with"]],
  }


def _over_json(value: Over | None) -> dict[str, float | None] | None:
  return None if value is None else value._asdict()
