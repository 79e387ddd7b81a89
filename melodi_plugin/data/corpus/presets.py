"""Corpora that are made by name: `prepare_corpus("shakespeare", folder)`.

A preset brings its own documents, and may fix their splits and bring its own tokenizer:

    PRESETS["mine"] = Preset(
      documents=lambda: (Record(id, text, split="train") for id, text in ...),
      tokenizer=lambda texts: from_model(serialized_sentencepiece_model),
    )
"""

import functools
import os
from typing import Any

from melodi_plugin.data.corpus import corpus_tokenizer, shakespeare
from melodi_plugin.data.corpus.build import Preset, build

PRESETS: dict[str, Preset] = {
  "shakespeare": Preset(
    documents=shakespeare.plays,
    tokenizer=functools.partial(corpus_tokenizer.train, vocab_size=1024),
  ),
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
  return build(name, PRESETS[name], out, f"python -m melodi_plugin.data {name} OUT")
