"""Histogram of document lengths, in tokens, with a bin for every power of two."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

_BAR = 24  # characters

# {lower end of a bin as a decimal number: documents}, as a manifest holds it.
type Lengths = Mapping[str, int]


def bin_of(tokens: int) -> int:
  """Lower end of the bin: the largest power of two that is not above `tokens`, at least 1."""
  return 1 << max(tokens.bit_length() - 1, 0)


def plot(lengths: Mapping[str, Lengths], path: Path) -> None:
  """Draws one panel per split into the PNG file `path`."""
  bins = _bins(lengths)
  figure = Figure(figsize=(7, 2 * len(lengths)), layout="constrained")
  panels = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
  for panel, (split, counts) in zip(panels, lengths.items(), strict=True):
    panel.bar(range(len(bins)), [counts.get(str(low), 0) for low in bins], width=0.9)
    panel.set_title(f"{split}: {sum(counts.values()):,} documents", fontsize="medium", loc="left")
    panel.set_ylabel("documents")
    panel.set_xticks(range(len(bins)), [_short(low) for low in bins])
  panels[-1].set_xlabel("tokens in the document, from this power of two up to the next")
  # Not the version of the library: the same corpus has the same bytes.
  figure.savefig(path, format="png", metadata={"Software": None})


def table(lengths: Mapping[str, Lengths]) -> Table:
  """The same as text: a row per bin, a column of bars per split."""
  drawn = Table("tokens", *lengths, title="Documents by length", title_justify="left")
  largest = {split: max(counts.values(), default=1) for split, counts in lengths.items()}
  width = max(_BAR // max(len(lengths), 1), 4)
  for low in _bins(lengths):
    cells = []
    for split, counts in lengths.items():
      number = counts.get(str(low), 0)
      bar = "█" * -(-width * number // largest[split])
      cells.append(f"{bar} {number:,}" if number else "")
    drawn.add_row(f"{_short(low)} to {_short(2 * low)}", *cells)
  return drawn


def _bins(lengths: Mapping[str, Lengths]) -> list[int]:
  """All bins from the first to the last that is not empty, empty ones between them too."""
  used = sorted(int(low) for counts in lengths.values() for low in counts)
  return [1 << k for k in range(used[0].bit_length() - 1, used[-1].bit_length())]


def _short(number: int) -> str:
  for unit, size in (("M", 2**20), ("k", 2**10)):
    if number >= size:
      return f"{number // size}{unit}"
  return str(number)
