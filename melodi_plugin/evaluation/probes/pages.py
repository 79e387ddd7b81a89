"""Results of probes as tables, pictures and files.

`probe_<name>.json` is the result; beside it lie its table, as `.md` and `.csv`, and its picture.  A
suite has a second table and picture, by task; what is read with memory and without, of the gain.
"""

import csv
import io
import json
import os
from collections.abc import Sequence
from typing import Any

from melodi_plugin.evaluation import report
from melodi_plugin.evaluation.probes import paired, plots
from melodi_plugin.evaluation.probes.result import Result, table
from melodi_plugin.evaluation.probes.suites import tally
from melodi_plugin.output.files import read_json, write_files
from melodi_plugin.output.tables import Table


def tables(results: Sequence[Result], names: Sequence[str] | None = None) -> list[Table]:
  """Results of one probe side by side: by distance, and those of a suite by task."""
  names = report.labels(results) if names is None else names
  found = [table(results, names)]
  if "tasks" in results[0]:
    found.append(tally.table(results, names))
  if _is_paired(results[0]):
    found.append(paired.table(results, names))
  return found


def _is_paired(result: Result) -> bool:
  return "gain" in result["points"][0]


def markdown(results: Sequence[Result], names: Sequence[str] | None = None) -> str:
  """The table in Markdown, with what was read and how."""
  names = report.labels(results) if names is None else names
  first, *others = tables(results, names)
  lines = [f"# {first.title}", "", f"Distance in windows.  {results[0]['what']}", ""]
  lines.append(first.markdown())
  for other in others:
    lines += [f"## {other.title}", "", other.markdown()]
  for name, result in zip(names, results, strict=True):
    lines.append(
      f"- {name}: {result['run']}, step {result['step']} (`{result['checkpoint']}`), "
      f"{result['documents']:,} documents, {tokens_words(result)}, windows of {result['window']} "
      "tokens."
    )
    if result.get("too_short"):
      lines.append(f"- {name}: there was no room for {', '.join(result['too_short'])}.")
  return "\n".join([*lines, ""])


def tokens_words(result: Result) -> str:
  """How many tokens the documents have, and how many of them the model has read."""
  given, read = result.get("tokens"), result.get("tokens_read")
  if given is None or read is None:
    return "tokens not counted"  # of an earlier version
  return f"{given:,} tokens, all read" if read == given else f"{read:,} of {given:,} tokens read"


def table_csv(results: Sequence[Result]) -> str:
  """A line per result and distance; a first use has no distance."""
  text = io.StringIO()
  rates_of = ("count", "accuracy", "low", "high", "nats")
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["probe", "run", "step", "memory", "from", "to", *rates_of])
  for result in results:
    own = [result[key] for key in ("probe", "run", "step", "memory")]
    first = [result["first_use"]] if "first_use" in result else []
    for point in first + result["points"]:
      writer.writerow([*own, point.get("from"), point.get("to"), *(point[key] for key in rates_of)])
  return text.getvalue()


# -- Files -----------------------------------------------------------------------------------------


def write(config: Any, result: Result) -> str:
  """Writes `probe_<name>` with its four endings into the folder of the run; returns its path."""
  folder = os.path.join(config.base_output_directory, config.run_name)
  control = "_reset_every_window" if config.melodi_reset_every_window else ""
  name = f"probe_{result['probe']}{control}"
  text = json.dumps(result, indent=2, allow_nan=False) + "\n"
  picture = plots.against_distance([result], report.labels([result]))
  contents = {"json": text.encode(), "csv": table_csv([result]).encode()}
  contents |= {"md": markdown([result]).encode(), "png": picture}
  files = {f"{name}.{ending}": data for ending, data in contents.items()}
  if "tasks" in result:
    files[f"{name}_tasks.csv"] = tally.table_csv(result).encode()
    files[f"{name}_tasks.png"] = tally.picture(result)
  if _is_paired(result):
    files[f"{name}_gain.png"] = paired.picture([result], report.labels([result]))
  write_files(folder, files)
  return f"{os.path.join(folder, name)}.{{{','.join(contents)}}}"


def read(path: str) -> Result:
  """What a `probe_<name>.json` holds; raises ValueError if it is none."""
  found = read_json(path)
  if not (isinstance(found, dict) and "probe" in found and found.get("points")):
    raise ValueError(f"{path} is not a probe_<name>.json of `melodi evaluate`.")
  return found
