"""The pages of the repository, and what stands in them."""

import glob
import pathlib
import re
import runpy
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
_FOLDERS = ("docs", "examples", "integration_tests", "patches")
PAGES = sorted(
  [*ROOT.glob("*.md"), *(p for name in _FOLDERS for p in ROOT.glob(f"{name}/**/*.md"))]
)
YAMLS = sorted(ROOT.glob("configs/**/*.yml"))
CODE = sorted(ROOT.glob("melodi_plugin/**/*.py"))

FENCE = re.compile(r"(?:^<!-- ([^>]*?) -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)

GENERATE = runpy.run_path(str(ROOT / "docs/generate.py"))


class Block(NamedTuple):
  """A fenced block, with the comment above it."""

  comment: str
  language: str
  text: str


def name(path: pathlib.Path) -> str:
  return str(path.relative_to(ROOT))


def blocks(page: pathlib.Path, *languages: str) -> list[Block]:
  found = (Block(*groups) for groups in FENCE.findall(page.read_text()))
  return [block for block in found if block.language in languages]


def prose(page: pathlib.Path) -> str:
  """A page without its fenced blocks."""
  return FENCE.sub("", page.read_text())


def expand(pattern: str) -> list[str]:
  """Braces as bash expands them, then files that match, or the word itself where none does."""
  braces = re.search(r"\{([^{}]*,[^{}]*)\}", pattern)
  if braces:
    words = (pattern[: braces.start()] + w + pattern[braces.end() :] for w in braces[1].split(","))
    return [file for word in words for file in expand(word)]
  return glob.glob(pattern, root_dir=ROOT, recursive=True) or [pattern]


def missing(pattern: str) -> list[str]:
  """The files of a pattern that are not there."""
  return [file for file in expand(pattern) if not (ROOT / file).exists()]
