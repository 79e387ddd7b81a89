"""What every document must be, what every format must do, and the one error for a broken document.

The formats share these checks, so that the same fault is reported in the same words.
"""

import abc
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.data.files import File


class Document(NamedTuple):
  """One document.

  Attributes:
    id: names it in messages and results.
    text: its whole text; of a conversation, its messages as JSON.
    others: the other fields that were asked for; '' where the record has none.
  """

  id: str
  text: str
  others: tuple[str, ...] = ()


class Fields(NamedTuple):
  """The names under which the records of a file hold the text, the id, and others wanted.

  In JSON the name of another field may be a path: 'meta.config' lies in the object 'meta'.
  """

  text: str = "text"
  id: str = "id"
  others: tuple[str, ...] = ()


class DocumentsError(ValueError):
  """Documents that a run cannot go on with; its message is one sentence."""


class BrokenDocument(DocumentsError):  # noqa: N818 - it is not the program's error
  """A document, or a whole file, that cannot be used.

  Attributes:
    where: 'path:line', 'path, record 7' (both from 1) or 'path'.
    problem: what is wrong and what to do about it, the rest of the sentence.
  """

  def __init__(self, where: str, problem: str):
    super().__init__(where, problem)  # What another process gets is made from these arguments.
    self.where = where
    self.problem = problem

  def __str__(self) -> str:
    return f"{self.where} {self.problem}."


Report = Callable[[BrokenDocument], None]
Advance = Callable[[int], None]


class Format(abc.ABC):
  """The documents of one file."""

  file: File

  @abc.abstractmethod
  def scan(self, report: Report, advance: Advance) -> np.ndarray | None:
    """Checks the file and finds its documents.

    Args:
      report: called with every broken record, which is then left out; may raise it.
      advance: called with the number of bytes scanned since the last call.

    Returns:
      Hashes of the ids, int64 [len], or None if only reading a document shows its id.

    Raises:
      BrokenDocument: for the whole file.
    """

  @abc.abstractmethod
  def __len__(self) -> int: ...

  @abc.abstractmethod
  def where(self, index: int) -> str:
    """Names document `index` in messages."""

  @abc.abstractmethod
  def read(self, index: int) -> Document:
    """Reads document `index`; raises BrokenDocument."""

  @abc.abstractmethod
  def sizes(self) -> np.ndarray:
    """Bytes of every document's record, int64 [len]; 0 for one that cannot be read."""

  def known_sizes(self) -> np.ndarray:
    """`sizes` where opening has shown them, else the bytes of the file, int64 [1]."""
    return np.array([self.file.size])


class Rules(NamedTuple):
  """What a record is checked against.

  Attributes:
    fields: its field names.
    max_bytes: the most UTF-8 bytes of a text.
    conversations: whether the field of the text holds messages, as a list or as its JSON.
  """

  fields: Fields
  max_bytes: int
  conversations: bool = False

  def document(self, where: str, text: Any, id: Any, others: Iterable[Any] = ()) -> Document:
    """Checks text and id, given as str or bytes (the id also as int); raises BrokenDocument."""
    if isinstance(id, int) and not isinstance(id, bool):
      id = str(id)
    if self.conversations:
      text = _conversation(where, self.fields.text, text)
    text, size = _string(where, self.fields.text, text)
    if not text or text.isspace():
      problem = f"has an empty {self.fields.text!r}; remove the record or give it text"
      raise BrokenDocument(where, problem)
    if size > self.max_bytes:
      raise self.too_large(where, size)
    found = tuple(map(_other, others)) or ("",) * len(self.fields.others)
    return Document(_string(where, self.fields.id, id)[0], text, found)

  def too_large(self, where: str, size: int) -> BrokenDocument:
    """The error for a record of `size` bytes."""
    return BrokenDocument(
      where,
      f"is too large ({size:,} bytes, and a text may have {self.max_bytes:,}); split it or raise "
      "max_bytes",
    )

  def no_text(self, where: str, found: str = "") -> BrokenDocument:
    """The error for a record without a text; `found` says what it has instead."""
    field = self.fields.text
    return BrokenDocument(
      where, f"has no {field!r} field{found}; give it one, or name the field that holds the text"
    )


_ROLES = ("system", "user", "assistant")


def _conversation(where: str, field: str, value: Any) -> str:
  """A conversation as JSON, from a list of messages or its JSON; raises BrokenDocument."""
  if isinstance(value, bytes | str):
    with contextlib.suppress(ValueError, RecursionError):
      value = json.loads(value)
  if not isinstance(value, list) or not all(map(_is_message, value)):
    raise BrokenDocument(
      where,
      f"has no list of messages in {field!r}; make it one of objects with a 'role' and a 'content' "
      "that are strings",
    )
  roles = [message["role"] for message in value]
  for number, role in enumerate(roles, start=1):
    if role not in _ROLES:
      raise BrokenDocument(
        where, f"has the role {role!r} in message {number} of {field!r}; use {', '.join(_ROLES)}"
      )
  if not roles:
    raise BrokenDocument(where, f"has no message in {field!r}; remove the record or give it some")
  if "assistant" not in roles:
    raise BrokenDocument(
      where, f"has no message of the assistant in {field!r}, so nothing to learn; add its answer"
    )
  if roles[0] == "assistant":
    raise BrokenDocument(
      where, f"begins with an answer in {field!r}; put the message that it answers before it"
    )
  return json.dumps(value, ensure_ascii=False)


def _is_message(value: Any) -> bool:
  return isinstance(value, dict) and all(
    isinstance(value.get(part), str) for part in ("role", "content")
  )


def decode(where: str, raw: bytes) -> str:
  """UTF-8 to text, without a byte-order mark; raises BrokenDocument."""
  try:
    return raw.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise BrokenDocument(where, f"is not UTF-8 (byte {error.start}); save it as UTF-8") from None


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
  """Turns whatever a file system or a file reader raises into BrokenDocument.

  Only calls that read a file belong inside: the many stores and readers have no common error.
  """
  try:
    yield
  except (BrokenDocument, MemoryError):
    raise
  except Exception as error:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(". ")
    raise BrokenDocument(
      where,
      f"cannot be read ({reason or type(error).__name__}); restore the file and its permissions, "
      "or leave it out",
    ) from error


def _other(value: Any) -> str:
  if value is None:
    return ""
  return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _string(where: str, field: str, value: Any) -> tuple[str, int]:
  """`value` as str, and its size in UTF-8."""
  if isinstance(value, bytes):
    return decode(where, value), len(value)
  if not isinstance(value, str):
    problem = f"has {field!r} of type {type(value).__name__}; make it a string"
    raise BrokenDocument(where, problem)
  try:
    return value, len(value.encode())
  except UnicodeEncodeError:
    # JSON can spell half of a surrogate pair, which no tokenizer accepts.
    raise BrokenDocument(
      where, f"has a lone surrogate (\\ud800-\\udfff) in {field!r}; write whole characters"
    ) from None
