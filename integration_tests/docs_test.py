"""What the pages say is there: links, files, keys, rooms, and the sentences of errors."""

import ast
import itertools
import re

import pytest

from integration_tests.pages import CODE, GENERATE, PAGES, ROOT, YAMLS, missing, name, prose
from melodi_plugin.config.keys import MelodiKeys

LOGS = {"docs/results.md", "CHANGELOG.md"}  # say what was true on their day

_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")
_PATH = re.compile(
  r"(?<![\w/.-])(?:melodi_plugin|integration_tests|configs|docs|examples|patches)/[\w./{},*-]*\w"
)
_MODULE = re.compile(r"`([\w/]+\.py)`")


def anchors(page) -> set[str]:
  """Of all headings, as GitHub makes them."""
  found: set[str] = set()
  for heading in _HEADING.findall(prose(page)):
    slug = re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "]", heading).lower()).replace(" ", "-")
    numbered = (f"{slug}-{number}" for number in itertools.count(1))
    found.add(next(anchor for anchor in itertools.chain([slug], numbered) if anchor not in found))
  return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
  text = re.sub(r"`[^`\n]+`", "", prose(page))
  for target in (link or source for link, source in _LINK.findall(text)):
    if re.match(r"https?:", target):
      continue
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    assert file.exists(), target
    assert not anchor or anchor in anchors(file), target


def test_named_files_are_there():
  files = {name(file): file.read_text() for file in (*PAGES, *YAMLS, *CODE)}
  named = [(file, path) for file in files.keys() - LOGS for path in _PATH.findall(files[file])]
  assert not [(file, path) for file, path in named if missing(path)]


def test_modules_that_docstrings_name_are_there():
  """As in `reference/melodi.py`: any end of a path."""
  there = [f"/{name(path)}" for path in (*CODE, *ROOT.glob("integration_tests/*.py"))]
  named = [(name(file), path) for file in CODE for path in _MODULE.findall(file.read_text())]
  assert not [pair for pair in named if not any(path.endswith(f"/{pair[1]}") for path in there)]


@pytest.mark.parametrize("page", ["keys.md", "commands.md"])
def test_generated_parts_say_what_the_code_says(page):
  """`uv run docs/generate.py` writes them."""
  assert GENERATE["pages"]()[page] == (ROOT / "docs" / page).read_text()


def test_groups_of_keys_begin_with_keys():
  assert GENERATE["GROUPS"].keys() <= MelodiKeys.model_fields.keys()


def test_rooms_of_the_readme_are_those_of_the_package():
  lines = re.compile(r"^  (\w+/?) +(\w.*)$", re.MULTILINE)
  package = ast.get_docstring(ast.parse((ROOT / "melodi_plugin/__init__.py").read_text()))
  tree = (ROOT / "README.md").read_text().split("melodi_plugin/    ")[1].split("```")[0]
  assert lines.findall(tree) == lines.findall(package)


def test_readme_is_short():
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_errors_page_quotes_sentences_of_the_code():
  """What the first column of its tables quotes stands in a text of the package."""
  texts = [
    node.value
    for file in CODE
    for node in ast.walk(ast.parse(file.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  ]
  quoted = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
  assert quoted
  assert not [words for words in quoted if not any(words in text for text in texts)]
