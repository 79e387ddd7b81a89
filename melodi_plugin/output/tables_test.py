"""What is printed and pasted, with the characters that rich and Markdown read as their own."""

from melodi_plugin.output.tables import Table

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


def test_screen_has_the_title_and_every_character(capsys):
  TABLE.show()
  shown = capsys.readouterr().out
  assert "found in [a]" in shown and "play [bold]" in shown and "x|y" in shown
