"""The list of broken documents that a run leaves out (`melodi_skip_broken_documents`)."""

import json
from collections.abc import Iterable

from absl import logging
from etils import epath

from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.output.files import write_file


class SkippedDocuments:
  """Lists every broken document once, one JSON object a line: `where` and `problem`.

  The list goes on when a run is resumed.
  """

  def __init__(self, path: epath.PathLike, found: Iterable[BrokenDocument] = ()):
    """Reads the list that is there, and adds those that were `found` when the files were opened.

    A line that is not whole (a kill cuts the last one off) is left out with a warning: if its
    document is met again, it is listed again.
    """
    self._path = epath.Path(path)
    self._listed: dict[str, str] = {}
    text = self._path.read_bytes().decode(errors="replace") if self._path.exists() else ""
    for number, line in enumerate(text.splitlines(), start=1):
      try:
        record = json.loads(line)
        self._listed[record["where"]] = record["problem"]
      except (ValueError, TypeError, KeyError):
        logging.warning("%s:%d is not a whole line and is left out.", self._path, number)
    for broken in found:
      self(broken)

  def __call__(self, broken: BrokenDocument) -> None:
    """Counts and lists `broken`, and says so in the log."""
    if broken.where in self._listed:
      return
    self._listed[broken.where] = broken.problem
    logging.warning("Left out document %d of %s: %s", len(self._listed), self._path, broken)
    lines = [json.dumps({"where": w, "problem": p}) for w, p in self._listed.items()]
    write_file(str(self._path), ("\n".join(lines) + "\n").encode())
