"""What goes where in a corpus: every document is sized, compared and given its split and shard.

Texts are streamed, several times; what is held is a few hundred bytes per document.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from melodi_plugin.data.corpus.split import SPLITS, split_groups
from melodi_plugin.data.documents import BrokenDocument

# More text than this changes a vocabulary little, and sentencepiece holds all that it reads.
_TOKENIZER_BYTES = 2**25


class Record(NamedTuple):
  """One document of a corpus.

  Attributes:
    id: names it; no two documents have the same.
    text: the whole text.
    group: documents of one group go to the same split; empty for a group of its own.
    split: 'train', 'validation' or 'test' where that is fixed; empty if it is to be drawn.
  """

  id: str
  text: str
  group: str = ""
  split: str = ""


# Gives the documents, the same in the same order at every call.  A BrokenDocument among them stands
# for one that cannot be read.
type Documents = Callable[[], Iterable[Record | BrokenDocument]]


@dataclass(slots=True)
class Entry:
  """What is known of a document."""

  group: str
  bytes: int  # UTF-8
  digest: bytes  # SHA-256 of the text
  split: str = ""  # Empty until `assign`, where the record does not fix it.
  shard: int = 0
  left_out: bool = False
  tokens: int = -1  # Unknown.


# Stands for all documents that are too short by their bytes already: of C4 nine in ten.
_SHORT = Entry("", 0, b"", left_out=True)


class Plan:
  """The entries of all documents, in their order."""

  def __init__(self, documents: Documents, *, min_tokens: int = 0, keep_repeats: bool = False):
    """Documents of fewer than `min_tokens`, and those with an earlier one's text, are left out."""
    self._documents = documents
    self._min_tokens = min_tokens
    self._keep_repeats = keep_repeats
    self._splits: set[str] = set()  # That some document was of, also one that is left out.
    self.short = 0  # Documents left out as too short.
    self.entries: list[Entry] = []
    self.skipped: list[str] = []  # Sentences.
    self.duplicates: list[tuple[str, str]] = []  # (left out, kept), by id.
    self.shards: dict[str, int] = dict.fromkeys(SPLITS, 0)

  def scan(self, *, skip_broken: bool) -> Iterator[int]:
    """Opens the documents, and returns an iterator that reads each and gives its size in bytes.

    Raises:
      BrokenDocument: at the first broken document, unless those are to be skipped.
    """
    return self._scan(self._documents(), skip_broken)

  def _scan(self, documents: Iterable[Record | BrokenDocument], skip_broken: bool) -> Iterator[int]:
    ids: set[str] = set()
    first_of: dict[bytes, str] = {}
    for record in documents:
      broken = record if isinstance(record, BrokenDocument) else _broken(record, ids)
      if broken and not skip_broken:
        raise broken
      if broken:
        self.skipped.append(str(broken))
      if not isinstance(record, Record):
        continue
      raw = record.text.encode("utf-8", "replace")
      self._splits.add(record.split)
      # A token has a byte at least; sentencepiece may put one token more in front.
      if not broken and len(raw) + 1 < self._min_tokens:
        self.short += 1
        self.entries.append(_SHORT)
        yield len(raw)
        continue
      entry = Entry(record.group or record.id, len(raw), hashlib.sha256(raw).digest(), record.split)
      self.entries.append(entry)
      if broken:
        entry.left_out = True
      else:
        ids.add(record.id)
        first = record.id
        if not self._keep_repeats:
          first = first_of.setdefault(entry.digest, record.id)
        if first != record.id:
          entry.left_out = True
          self.duplicates.append((record.id, first))
      yield entry.bytes

  def assign(self, shares: Mapping[str, float]) -> None:
    """Gives every document that has no fixed split one.

    Raises:
      ValueError: if there is nothing to train on, or too few groups for the splits.
    """
    sizes = Counter()
    for entry in self.entries:
      if not entry.split and not entry.left_out:
        sizes[entry.group] += entry.bytes
    drawn = split_groups(sizes, shares)
    self._splits |= set(drawn.values())
    for entry in self.entries:
      if not entry.left_out:
        entry.split = entry.split or drawn[entry.group]
    self._check_splits()

  def leave_out_short(self) -> None:
    """Leaves out every document of too few tokens, once they are known.

    Raises:
      ValueError: if a split has no other documents.
    """
    for entry in self.entries:
      if not entry.left_out and entry.tokens < self._min_tokens:
        entry.left_out = True
        self.short += 1
    self._check_splits()

  def _check_splits(self) -> None:
    filled = {entry.split for entry in self.entries if not entry.left_out}
    for split in SPLITS:
      if self._min_tokens and split in self._splits - filled:
        raise ValueError(
          f"No document of the split {split} has {self._min_tokens:,} tokens; lower --min-tokens."
        )
    if "train" not in filled:
      raise ValueError("There is no document to train on; name sources that hold text.")

  def shard(self, shard_bytes: int) -> None:
    """Gives every document a shard of its split."""
    filled = Counter()
    for entry in self.entries:
      if entry.left_out:
        continue
      split = entry.split
      filled[split] += entry.bytes
      if not self.shards[split] or filled[split] > shard_bytes:
        self.shards[split] += 1
        filled[split] = entry.bytes
      entry.shard = self.shards[split] - 1

  def kept(self) -> Iterator[tuple[Entry, Record]]:
    """Reads the documents that are not left out; raises ValueError if one has changed."""
    records = (item for item in self._documents() if not isinstance(item, BrokenDocument))
    for entry, record in zip(self.entries, records, strict=True):
      if entry.left_out:
        continue
      if hashlib.sha256(record.text.encode()).digest() != entry.digest:
        raise ValueError(f"Document {record.id!r} changed while it was read; start again.")
      yield entry, record

  def training_texts(self) -> Iterator[str]:
    """Training documents; of a large corpus a part, drawn by the hashes of the texts."""
    train = (e for e in self.entries if e.split == "train" and not e.left_out)
    chosen, size = set(), 0
    for entry in sorted(train, key=lambda entry: entry.digest):
      size += entry.bytes
      if size > _TOKENIZER_BYTES and chosen:
        break
      chosen.add(entry.digest)
    for entry, record in self.kept():
      if entry.split == "train" and entry.digest in chosen:
        yield record.text


def _broken(record: Record, ids: set[str]) -> BrokenDocument | None:
  where = f"Document {record.id!r}"
  if record.id in ids:
    return BrokenDocument(where, "has the id of another document; rename one of them")
  try:
    "".join(record).encode()
  except UnicodeEncodeError:
    return BrokenDocument(where, "holds a lone surrogate (\\ud800-\\udfff); write whole characters")
  if not record.text.strip():
    return BrokenDocument(where, "is empty; remove it or give it text")
  if record.split and record.split not in SPLITS:
    return BrokenDocument(where, f"has no split {record.split!r}; choose one of {SPLITS}")
  return None
