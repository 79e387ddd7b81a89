"""Corpora that are made by name: `prepare_corpus("shakespeare", folder)`.

A preset brings its own documents, and may fix their splits and bring its own tokenizer:

    PRESETS["mine"] = Preset(
      documents=lambda: (Record(id, text, split="train") for id, text in ...),
      tokenizer=lambda texts: from_model(serialized_sentencepiece_model),
    )
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from melodi_plugin.data.corpus import corpus_tokenizer, mqar, recall, shakespeare
from melodi_plugin.data.corpus.build import Preset, build
from melodi_plugin.data.corpus.plan import Record
from melodi_plugin.data.documents import Document

# The documents that a model learns associative recall from, and a few to watch its loss on.
_DOCUMENTS = {"train": 60_000, "validation": 200}


def _task(documents: Callable[[int, int], list[Document]], symbols: Callable[[], bytes]) -> Preset:
  """A task of the recall probes, which read documents of other seeds."""

  def records() -> Iterator[Record]:
    for seed, (split, count) in enumerate(_DOCUMENTS.items()):
      for document in documents(count, 1000 + seed):
        yield Record(document.id, document.text, split=split)

  return Preset(
    documents=records,
    tokenizer=lambda texts: corpus_tokenizer.from_model(symbols()),
    request={"task": dataclasses.asdict(mqar.Task()), "documents": _DOCUMENTS},
  )


PRESETS: dict[str, Preset] = {
  "shakespeare": Preset(
    documents=shakespeare.plays,
    tokenizer=functools.partial(corpus_tokenizer.train, vocab_size=1024),
  ),
  "mqar": _task(mqar.training_documents, mqar.tokenizer),
  "recall": _task(recall.training_documents, recall.tokenizer),
}


def prepare_corpus(name: str, out: str | os.PathLike[str]) -> dict[str, Any]:
  """Makes folder `out` hold the preset `name`; a folder that holds it already is left as it is.

  Processes that do so at the same time do not disturb each other.

  Returns:
    The manifest, as `build` describes it.

  Raises:
    ValueError: if there is no such preset, what it needs is not installed, or `out` holds something
      else.
  """
  if name not in PRESETS:
    raise ValueError(f"There is no corpus {name!r}; choose one of {', '.join(PRESETS)}.")
  return build(name, PRESETS[name], out, f"melodi data {name} OUT")
