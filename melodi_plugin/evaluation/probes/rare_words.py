"""The loss on rare words, at their first use in a document and when they are used again.

A model with memory should find the name of a person, a lemma or a function easier to read when the
document has named it before, however long ago.  The loss of a word is that of all its tokens.
"""

import collections
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.data.spans import Spans, tokens_of
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes.reading import Tokens, eval_documents, read
from melodi_plugin.evaluation.probes.result import Answer, doubling_ranges, points, rates
from melodi_plugin.evaluation.reading import ScoredDocument

_WORD = re.compile(r"[^\W\d]\w{4,}")  # five letters, digits and underscores, or more
_SHARE = 0.01  # of the documents that may use a rare word


class Use(NamedTuple):
  """One use of a rare word."""

  distance: int | None  # windows since its last use, None at the first
  hit: bool
  nats: float


def rare_words(texts: Iterable[str]) -> tuple[set[str], int]:
  """The words that few documents use, and how many documents may: 1 % of them, but always one."""
  documents_with, total = collections.Counter(), 0
  for text in texts:
    documents_with.update(set(_WORD.findall(text)))
    total += 1
  most = max(1, int(_SHARE * total))
  return {word for word, count in documents_with.items() if count <= most}, most


def uses(
  document: ScoredDocument, rare: set[str], spans: np.ndarray, window_length: int
) -> Iterator[Use]:
  """All uses of rare words in a document, but for one that holds its first token: it has no loss.

  Args:
    document: with the loss of its tokens.
    rare: the words.
    spans: of its tokens, [N, 2].
    window_length: W.
  """
  last: dict[str, int] = {}
  for match in _WORD.finditer(document.text):
    word = match[0]
    if word not in rare:
      continue
    tokens = tokens_of(spans, *match.span())
    window = int(tokens[0]) // window_length
    distance = window - last[word] if word in last else None
    last[word] = window
    if tokens[0] > 0:
      at = tokens - 1  # the losses begin with that of the second token
      nats = float(document.nats[at].sum(dtype=np.float64))
      yield Use(distance, bool(document.hits[at].all()), nats)


def measure(config: Any) -> dict[str, Any]:
  """Reads the documents of `grain_eval_files`.

  Raises:
    ValueError: if there are no documents, or no rare word is used again.
  """
  source = eval_documents(config)
  spans, first, again, tokens = Spans(config), [], [], Tokens()
  spans(source[0].text, Tokenizer(config)(source[0].text))  # fails before a long reading
  rare, most = rare_words(source[index].text for index in range(len(source)))
  for document in read(config, source, tokens):
    of_text = spans(document.text, document.tokens)
    for use in uses(document, rare, of_text, config.melodi_window_length):
      if use.distance is None:
        first.append(use)
      else:
        again.append(Answer(use.distance, use.hit, use.nats))
  if not again:
    raise ValueError(f"no rare word is used twice in the documents of {config.grain_eval_files}.")
  return {
    "what": f"Words of five letters or more that at most {most:,} of {len(source):,} documents "
    "use; right if all their tokens are; nats per word.",
    "documents": len(source),
    **tokens.counted(),
    "first_use": rates(np.array([use.hit for use in first]), np.array([use.nats for use in first])),
    "points": points(again, doubling_ranges(max(answer.distance for answer in again))),
  }
