"""The paper's kinds of text by name: where they are published, and how that is read.

pg19         one .txt per book in train/, validation/ and test/ (28,602, 50 and 100 books);
             https://github.com/google-deepmind/pg19.  metadata.csv, of titles, is not needed
arxiv-math   .jsonl.gz in train/, dev/ and test/, a .tex file a record; of this collection the
             records with meta.config = "arxiv", which are mathematics;
             https://huggingface.co/datasets/hoskinson-center/proof-pile
c4-4k        1024 files of training and 8 of validation, .json.gz, a page a record;
             https://huggingface.co/datasets/allenai/c4
github-code  1126 files of Parquet, a source file a row, no splits;
             https://huggingface.co/datasets/codeparrot/github-code
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melodi_plugin.data.corpus.build import Preset
from melodi_plugin.data.corpus.corpus_tokenizer import CorpusTokenizer
from melodi_plugin.data.corpus.download import download
from melodi_plugin.data.corpus.plan import Record
from melodi_plugin.data.corpus.sources import Reading, Sources
from melodi_plugin.data.documents import BrokenDocument
from melodi_plugin.data.files import File, match_files
from melodi_plugin.output.bars import asking


@dataclass(frozen=True)
class Published:
  """A corpus that is published.

  Attributes:
    address: folder of its files.
    files: what must be in that folder: a pattern for each part.
    reading: how they are read; what is broken is left out, as nobody here can mend it.
    words: of each split, as its authors count them; they divide by these.
  """

  address: str
  files: tuple[str, ...]
  reading: Reading
  words: Mapping[str, int] = field(default_factory=dict)


_SPLITS = Reading(group_by="document", keep_splits=True, skip_broken=True)
CORPORA = {
  "pg19": Published(
    "gs://deepmind-gutenberg",
    ("train/*.txt", "validation/*.txt", "test/*.txt"),
    _SPLITS,
    words={"train": 1_973_136_207, "validation": 3_007_061, "test": 6_966_499},
  ),
  "arxiv-math": Published(
    "hf://datasets/hoskinson-center/proof-pile",
    ("train/*.jsonl.gz", "dev/*.jsonl.gz", "test/*.jsonl.gz"),
    Reading(group_by="document", keep_splits=True, skip_broken=True, only=("meta.config", "arxiv")),
  ),
  "c4-4k": Published(
    "hf://datasets/allenai/c4/en",
    ("c4-train.*.json.gz", "c4-validation.*.json.gz"),
    _SPLITS,
  ),
  "github-code": Published(
    "hf://datasets/codeparrot/github-code/data",
    ("train-*.parquet",),
    Reading(text_field="code", group_field="repo_name", group_by="field", skip_broken=True),
  ),
}


def preset(
  name: str,
  place: str | None,
  copies: str,
  tokenizer: Callable[..., CorpusTokenizer],
  wanted: Any,
  min_tokens: int,
) -> Preset:
  """The corpus `name` as `build` makes it.

  Args:
    name: one of CORPORA.
    place: folder with the published files, local or remote, read where it lies; None for the
      published one, which is copied first.
    copies: folder for the copies.
    tokenizer: as of `Preset`.
    wanted: what tells the tokenizer from another, as JSON values.
    min_tokens: shorter documents are left out.
  """
  corpus = CORPORA[name]
  return Preset(
    documents=_Documents(name, place, Path(copies)),
    tokenizer=tokenizer,
    min_tokens=min_tokens,
    keep_repeats=corpus.reading.keep_splits,
    skip_broken=True,
    # Not the files: the copies may be removed when the corpus is made.
    request={"from": place or corpus.address, "tokenizer": wanted, "min_tokens": min_tokens},
    about={"published": {"address": corpus.address, "words": dict(corpus.words)}},
  )


class _Documents:
  """Its documents; the files are listed and copied when they are first asked for."""

  def __init__(self, name: str, place: str | None, copies: Path):
    self._name, self._place, self._copies = name, place, copies
    self._sources: Sources | None = None

  def __call__(self) -> Iterator[Record | BrokenDocument]:
    if self._sources is None:
      corpus, place = CORPORA[self._name], self._place
      if place is None:
        download(_find(self._name, corpus.address), self._copies)
        place = str(self._copies)
      _find(self._name, place)
      pattern = ";".join(f"{place.rstrip('/')}/{part}" for part in corpus.files)
      self._sources = Sources([pattern], corpus.reading)
    return self._sources()

  def __len__(self) -> int:
    return len(self._sources or ())


def _find(name: str, place: str) -> list[File]:
  """All files of a corpus in a folder, named below it; raises ValueError if a part is missing."""
  parts = [f"{place.rstrip('/')}/{part}" for part in CORPORA[name].files]
  for part in parts:
    try:
      with asking(part):
        match_files(part)
    except ValueError as error:
      if isinstance(error.__cause__, Exception):  # the store's: no network, no permission
        raise ValueError(
          f"{part} cannot be listed ({error.__cause__}); if this machine is offline, copy what is "
          f"in {CORPORA[name].address} here by other means and name its folder with --from."
        ) from error
      raise ValueError(
        f"{place} is not {name} as published, for nothing in it matches "
        f"{part.removeprefix(place).lstrip('/')}; name the folder that holds "
        f"{', '.join(CORPORA[name].files)}."
      ) from error
  return match_files(";".join(parts))
