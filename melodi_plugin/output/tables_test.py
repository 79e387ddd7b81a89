"""What is printed and pasted, with the characters that rich and Markdown read as their own."""

import pytest

from melodi_plugin.output.tables import Table, with_unit

TABLE = Table("found in [a]", ["", "tokens"], [["play [bold]", "1,234"], ["x|y", "5"]])


def test_markdown_is_aligned_and_keeps_every_character():
  assert TABLE.markdown().splitlines() == [
    "|             | tokens |",
    "|-------------|-------:|",
    "| play [bold] |  1,234 |",
    "| x\\|y        |      5 |",
  ]


def test_no_line_of_markdown_is_broken():
  long = TABLE._replace(rows=[["a" * 3000, "1"]]).markdown()
  assert len(long.splitlines()) == 3 and "a" * 3000 in long


WIDE = Table("wide", ["", *(f"column {i}" for i in range(20))], [["row", *map(str, range(20))]])


@pytest.mark.parametrize("width, lines", [(500, 1), (60, 20)])
def test_rows_of_a_table_too_wide_for_the_screen_are_columns(capsys, monkeypatch, width, lines):
  monkeypatch.setenv("COLUMNS", str(width))
  WIDE.show()
  shown = capsys.readouterr().out
  assert all(f"column {i}" in shown for i in range(20))
  assert sum("│" in line for line in shown.splitlines()) == lines


def test_a_table_that_fits_in_no_way_stays_as_it_is(capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "60")
  Table("", WIDE.header, list(WIDE.rows) * 20).show()
  assert "━" in capsys.readouterr().out


def test_screen_has_the_title_and_every_character(capsys):
  TABLE.show()
  shown = capsys.readouterr().out
  assert "found in [a]" in shown and "play [bold]" in shown and "x|y" in shown


@pytest.mark.parametrize(
  "number, shown",
  [
    (0, "0"),
    (4096, "4,096"),
    (65_536, "65,536"),
    (926_208, "926.2 k"),
    (1_572_864, "1.57 M"),
    (134_217_728, "134.2 M"),
    (8_215_775_000, "8.22 G"),
    (4.26e14, "426.0 T"),
    (3.1e15, "3,100.0 T"),
  ],
)
def test_numbers_have_the_unit_that_fits(number, shown):
  assert with_unit(number) == shown


def test_units_stand_behind_the_letter():
  assert [with_unit(number, "B") for number in (512, 1.5e9)] == ["512 B", "1.50 GB"]
