"""Where the text that is read comes from: a key, a file, standard input, or many documents."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, override

import numpy as np
from etils import epath

from melodi_plugin.data.documents import (
  BrokenDocument,
  Document,
  DocumentSource,
  Fields,
  check_ids,
  open_documents,
)
from melodi_plugin.data.files import File, is_remote
from melodi_plugin.data.records import Advance, Format, Report, Rules, decode
from melodi_plugin.data.skipped import SkippedDocuments

_INPUT = "-"
_INPUT_NAME = "standard input"
_UNASKED_PROMPT = "I love to"  # MaxText's, in base.yml


def prompt_of(config: Any, keys: Sequence[str] = ()) -> str | None:
  """The text of `prompt` or of `melodi_prompt_file`; None if neither is given.

  MaxText has a prompt of its own, which nobody asked for: it counts only if it is written in the
  command line or in the environment.  An empty prompt is one.

  Args:
    config: the config that was read.
    keys: key=value of the command line.

  Raises:
    ValueError: if both are given, or the file is no UTF-8 or cannot be read.
  """
  asked = "M_PROMPT" in os.environ or any(key.startswith("prompt=") for key in keys)
  given = asked or config.prompt != _UNASKED_PROMPT
  if given and config.melodi_prompt_file:
    raise ValueError("prompt and melodi_prompt_file are both given; leave one of them out.")
  if config.melodi_prompt_file:
    return read_text(config.melodi_prompt_file)
  return config.prompt if given else None


def read_text(path: str) -> str:
  """All of a file, local or remote, or of standard input for '-'.

  Raises:
    ValueError: if it cannot be read or is not UTF-8, with the place of the first wrong byte.
  """
  if path == _INPUT:
    return decode(_INPUT_NAME, sys.stdin.buffer.read())
  file = File(path if is_remote(path) else os.path.expanduser(path), os.path.basename(path))
  try:
    with file.open() as stream:
      raw = stream.read()
  except Exception as error:  # the many stores have no common error
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(". ")
    raise ValueError(
      f"{path} cannot be read ({reason or type(error).__name__}); name a file of text, or - for "
      "standard input."
    ) from error
  return decode(path, raw)


def open_documents_of(config: Any) -> DocumentSource:
  """The documents of `melodi_documents`; the id of a text file is its name.

  With `melodi_skip_broken_documents`, `broken` of the source lists what was left out at once.

  Raises:
    ValueError: if nothing is named, a part matches nothing, or a document is broken and not to be
      left out.
  """
  parts = [part for text in config.melodi_documents.split(",") if (part := text.strip())]
  if not parts:
    raise ValueError(
      "melodi_documents names nothing to read; set it to files, folders or globs joined by commas, "
      "or to - for standard input."
    )
  if len(config.eval_data_columns) != 1:
    raise ValueError(
      "eval_data_columns names the one field that holds the text of a document, not "
      f"{list(config.eval_data_columns)}."
    )
  fields = Fields(text=config.eval_data_columns[0], id=config.melodi_id_field)
  max_bytes, skip = config.melodi_max_document_bytes, config.melodi_skip_broken_documents
  if parts == [_INPUT]:
    return DocumentSource([_StandardInput(Rules(fields, max_bytes))])
  if _INPUT in parts:
    raise ValueError(
      "melodi_documents names standard input (-) among others; read it in a run of its own."
    )
  source = open_documents(";".join(parts), fields, max_bytes=max_bytes, skip_broken=skip)
  if not skip:
    check_ids(source)
  return source


def skipped_list(config: Any, source: DocumentSource, folder: str) -> SkippedDocuments | None:
  """Lists broken documents in skipped_documents.jsonl of `folder`; None if one is to stop all."""
  if not config.melodi_skip_broken_documents:
    return None
  return SkippedDocuments(epath.Path(folder) / "skipped_documents.jsonl", source.broken)


def read_documents(
  source: DocumentSource, on_broken: Callable[[BrokenDocument], None] | None = None
) -> Iterator[tuple[int, Document]]:
  """Every document that can be read, and its index in `source`.

  Args:
    source: the documents.
    on_broken: is told what cannot be read, and the next one follows; without it, that raises.

  Raises:
    BrokenDocument: without `on_broken`.
  """
  for index in range(len(source)):
    try:
      document = source[index]
    except BrokenDocument as error:
      if on_broken is None:
        raise
      on_broken(error)
    else:
      yield index, document


class _StandardInput(Format):
  """Standard input as one document; it is read once, when this is made."""

  def __init__(self, rules: Rules):
    """Raises BrokenDocument."""
    self.file = File(_INPUT, "stdin")
    raw = sys.stdin.buffer.read(rules.max_bytes + 1)
    if len(raw) > rules.max_bytes:
      raise rules.too_large(_INPUT_NAME, len(raw))
    self._document = rules.document(_INPUT_NAME, raw, self.file.name)
    self._size = len(raw)

  @override
  def scan(self, report: Report, advance: Advance) -> None:
    advance(self._size)

  @override
  def __len__(self) -> int:
    return 1

  @override
  def where(self, index: int) -> str:
    return _INPUT_NAME

  @override
  def read(self, index: int) -> Document:
    return self._document

  @override
  def sizes(self) -> np.ndarray:
    return np.array([self._size])
