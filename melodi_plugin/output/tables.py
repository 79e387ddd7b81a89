"""Tables of text, for the screen and as Markdown that can be pasted."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

_WIDE = 100_000  # characters of a line of Markdown, which must not be broken


def with_unit(number: int | float, unit: str = "") -> str:
  """Three digits or more before the letter that fits: '922.4 k', '1.57 MB', '12.6 G', '65,536'."""
  for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
    if abs(number) >= size * (100 if letter == "k" else 1):
      share = number / size
      return f"{share:,.{1 if abs(share) >= 10 else 2}f} {letter}{unit}"
  return f"{number:,.0f} {unit}".rstrip()


class Table(NamedTuple):
  """Rows of cells under a header; the first column is left-aligned, the others are numbers."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]

  def show(self) -> None:
    """Prints the table, with its rows as columns if it fits on the screen only so."""
    console = Console()
    shown = next((t for t in (self, self.transposed()) if t._width(console) <= console.width), self)
    console.print(shown._drawn(box.HEAVY_HEAD, self.title))

  def transposed(self) -> "Table":
    """Columns as rows."""
    header, *rows = zip(self.header, *self.rows, strict=True)
    return Table(self.title, header, rows)

  def _width(self, console: Console) -> int:
    """Characters of a line, if none is broken."""
    drawn = self._drawn(box.HEAVY_HEAD, None)
    unlimited = console.options.update(max_width=_WIDE)
    return Measurement.get(console, unlimited, drawn).maximum

  def markdown(self) -> str:
    """The table as Markdown, without its title."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
    drawn, text = self._replace(rows=rows)._drawn(box.MARKDOWN, None), io.StringIO()
    Console(file=text, width=_WIDE, no_color=True).print(drawn)
    header, rule, *lines = (line.strip() for line in text.getvalue().splitlines() if line.strip())
    first, *others = rule.strip("|").split("|")
    rule = "|".join(["", first, *(f"{other[:-1]}:" for other in others), ""])  # : aligns right
    return "\n".join([header, rule, *lines, ""])

  def _drawn(self, lines: box.Box, title: str | None) -> RichTable:
    """The table for rich, with cells of `Text`: it reads brackets in plain strings as colours."""
    drawn = RichTable(title=None if title is None else Text(title), box=lines)
    for number, name in enumerate(self.header):
      drawn.add_column(_cell(name), justify="right" if number else "left")
    for row in self.rows:
      drawn.add_row(*map(_cell, row))
    return drawn


def _cell(content: str) -> Text:
  """One line, and nothing that a terminal would obey."""
  return Text("".join(char if char.isprintable() else " " for char in content))
