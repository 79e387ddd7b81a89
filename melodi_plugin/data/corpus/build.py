"""Documents become a folder of sharded ArrayRecord, for MELODI and for MaxText's own Grain path.

train-00000-of-00002.array_record ...   serialized tf.train.Example: bytes `text`, `id`, `group`
validation-... test-...
tokenizer.model                         if the tokenizer was made with the corpus
lengths.png                             how long the documents are, in tokens
manifest.json                           what is in the folder and how it was made; written last
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
from maxtext.input_pipeline.protos import example_pb2
from rich.console import Console
from rich.progress import (
  BarColumn,
  Progress,
  TaskProgressColumn,
  TextColumn,
  TimeRemainingColumn,
)

from melodi_plugin.data.corpus import lengths
from melodi_plugin.data.corpus.corpus_tokenizer import CorpusTokenizer
from melodi_plugin.data.corpus.plan import Documents, Entry, Plan, Record
from melodi_plugin.data.corpus.split import SPLITS

# A folder in another layout is not taken for a complete corpus.
_LAYOUT = 1


@dataclass(frozen=True)
class Preset:
  """What a corpus is made of.

  Attributes:
    documents: gives the documents, the same in the same order at every call; it is called two or
      three times, and should not hold all texts at once.
    tokenizer: makes the tokenizer from the training texts, which it may leave unread; called once.
    shares: part of the text that each split gets, of the documents that fix no split.
    shard_bytes: a shard is closed before its texts go over this many UTF-8 bytes.
    min_tokens: documents with fewer tokens are left out; those that are drawn are drawn before.
    keep_repeats: keep documents with the text of an earlier one, instead of leaving them out.
    skip_broken: leave broken documents out and list them, instead of stopping at the first.
    request: what was asked for, as JSON values; a folder made for another request is refused.
    about: what else the manifest says.
  """

  documents: Documents
  tokenizer: Callable[[Iterable[str]], CorpusTokenizer]
  shares: Mapping[str, float] = field(
    default_factory=lambda: {"train": 0.85, "validation": 0.05, "test": 0.10}
  )
  shard_bytes: int = 2**28
  min_tokens: int = 0
  keep_repeats: bool = False
  skip_broken: bool = False
  request: Mapping[str, Any] = field(default_factory=dict)
  about: Mapping[str, Any] = field(default_factory=dict)


def build(
  name: str, preset: Preset, out: str | os.PathLike[str], command: str = ""
) -> dict[str, Any]:
  """Makes folder `out` hold the corpus; a folder that holds it already is left as it is.

  The folder appears in one step when everything is written, so what an interrupted run leaves
  behind is never taken for the corpus, and of processes that build it at the same time one wins.
  The same documents give the same bytes.

  Args:
    name: of the corpus, for messages and the manifest.
    preset: what it is made of.
    out: folder to make; its parents are made too.
    command: how to make it again, for the manifest.

  Returns:
    The manifest; per split it has `documents`, `groups`, `bytes` (UTF-8), `words` (separated by
    white space), `tokens`, `shards` and `lengths` (documents by length, as in lengths.py).

  Raises:
    ValueError: if `out` holds something else, or the documents or the tokenizer are no good.
  """
  out = Path(out)
  request = {"layout": _LAYOUT, "corpus": name, **preset.request}
  if manifest := _complete(request, out):
    return manifest
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ValueError(
      f"{out} exists and is not a complete corpus {name!r} as asked for; remove it or name another "
      "folder."
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
    folder = Path(scratch) / "corpus"
    folder.mkdir()
    manifest = {"corpus": name, "command": command, "request": request, **preset.about}
    manifest |= _write(preset, folder)
    manifest["sha256"] = {path.name: _digest(path) for path in sorted(folder.iterdir())}
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    try:
      folder.rename(out)
    except OSError:
      # Another process may have been faster; then its folder is as good as ours.
      if not _complete(request, out):
        raise
  return manifest


def _write(preset: Preset, folder: Path) -> dict[str, Any]:
  """Writes everything but the manifest, and returns what the manifest says of it."""
  done = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
  columns = (TextColumn("{task.description}"), *done)
  plan = Plan(preset.documents, min_tokens=preset.min_tokens, keep_repeats=preset.keep_repeats)
  # Here and not below, because opening record files shows a bar of its own.
  scanned = plan.scan(skip_broken=preset.skip_broken)
  number = len(preset.documents) if isinstance(preset.documents, Sized) else None
  words, tokens = collections.Counter(), collections.Counter()
  histograms = {split: collections.Counter() for split in SPLITS}
  with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
    task = progress.add_task("Reading", total=number)
    for _ in scanned:
      progress.advance(task)
    plan.assign(preset.shares)
    progress.reset(task, description="Tokenizer", total=None)
    tokenizer = preset.tokenizer(plan.training_texts())
    if preset.min_tokens:
      progress.reset(task, description="Counting tokens", total=_bytes(plan))
      for entry, _ in _counted(plan.kept(), tokenizer):
        progress.advance(task, entry.bytes)
      plan.leave_out_short()
    plan.shard(preset.shard_bytes)
    progress.reset(task, description="Writing", total=_bytes(plan))
    with contextlib.closing(_ShardWriter(folder, plan.shards)) as writer:
      for entry, record in _counted(plan.kept(), tokenizer):
        writer.write(entry, record)
        words[entry.split] += len(record.text.split())
        tokens[entry.split] += entry.tokens
        histograms[entry.split][lengths.bin_of(entry.tokens)] += 1
        progress.advance(task, entry.bytes)
  if tokenizer.model is not None:
    (folder / "tokenizer.model").write_bytes(tokenizer.model)
  splits = {}
  for split in SPLITS:
    entries = [e for e in plan.entries if e.split == split and not e.left_out]
    splits[split] = {
      "documents": len(entries),
      "groups": len({entry.group for entry in entries}),
      "bytes": sum(entry.bytes for entry in entries),
      "words": words[split],
      "tokens": tokens[split],
      "shards": plan.shards[split],
      "lengths": {str(low): number for low, number in sorted(histograms[split].items())},
    }
  lengths.plot({split: sizes["lengths"] for split, sizes in splits.items()}, folder / "lengths.png")
  return {
    "splits": splits,
    "tokenizer": tokenizer.description,
    "skipped": {"documents": len(plan.skipped), "problems": plan.skipped},
    "duplicates": {
      "documents": len(plan.duplicates),
      "same_text_as": dict(plan.duplicates),
    },
    "short": {"documents": plan.short, "tokens_below": preset.min_tokens},
  }


def _bytes(plan: Plan) -> int:
  return sum(entry.bytes for entry in plan.entries if not entry.left_out)


def _counted(
  records: Iterable[tuple[Entry, Record]], tokenizer: CorpusTokenizer
) -> Iterator[tuple[Entry, Record]]:
  """The same, with `tokens` known; threads count ahead."""
  threads = os.cpu_count() or 1
  waiting = collections.deque()

  def count(entry: Entry, record: Record) -> tuple[Entry, Record]:
    if entry.tokens < 0:
      entry.tokens = tokenizer.count(record.text)
    return entry, record

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for entry, record in records:
      waiting.append(pool.submit(count, entry, record))
      if len(waiting) > threads:
        yield waiting.popleft().result()
    for last in waiting:
      yield last.result()


class _ShardWriter:
  """One open shard per split; the documents of a split come shard after shard."""

  def __init__(self, folder: Path, shards: Mapping[str, int]):
    self._folder, self._shards = folder, shards
    self._open: dict[str, tuple[int, ArrayRecordWriter]] = {}

  def write(self, entry: Entry, record: Record) -> None:
    shard, writer = self._open.get(entry.split, (-1, None))
    if shard != entry.shard:
      if writer:
        _close(writer)
      name = f"{entry.split}-{entry.shard:05d}-of-{self._shards[entry.split]:05d}.array_record"
      # One record per chunk: documents are long, and are read in random order.
      writer = ArrayRecordWriter(str(self._folder / name), "group_size:1")
      self._open[entry.split] = (entry.shard, writer)
    writer.write(_serialize({"text": record.text, "id": record.id, "group": entry.group}))

  def close(self) -> None:
    for _, writer in self._open.values():
      _close(writer)


def _close(writer: ArrayRecordWriter) -> None:
  try:
    writer.close()
  except RuntimeError as error:  # A full disk shows only here: writing is buffered.
    raise OSError(
      f"A shard cannot be written ({error}); make room or name another folder."
    ) from None


def _serialize(features: Mapping[str, str]) -> bytes:
  example = example_pb2.Example()
  for name, value in features.items():
    example.features.feature[name].bytes_list.value.append(value.encode())
  # Else the order of the features, and with it the file, may differ from run to run.
  return example.SerializeToString(deterministic=True)


def _complete(request: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
  """The manifest of `folder` if it holds all that was asked for, unchanged."""
  try:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    digests = {file: _digest(folder / file) for file in manifest["sha256"]}
    same = manifest["request"] == request and manifest["sha256"] == digests
  except (OSError, ValueError, KeyError, TypeError):
    return None
  return manifest if same else None


def _digest(path: Path) -> str:
  with open(path, "rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()
