"""The loss on names that the document itself has defined, by the distance to their definition.

Identifiers of code and names of theorems (`let ADD_SYM = prove`, `def fold_left(`, `Lemma plus_n:`)
cannot be known before.  The same model reads twice, with memory and forgetting at every window; in
a window after that of the definition only the first use of a name counts, since the window itself
gives away the others.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.data.spans import Spans, tokens_of
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes import paired
from melodi_plugin.evaluation.probes.paired import Pair
from melodi_plugin.evaluation.probes.reading import Tokens, eval_documents, read_twice
from melodi_plugin.evaluation.probes.result import doubling_ranges
from melodi_plugin.evaluation.reading import ScoredDocument

_NAME = re.compile(r"[A-Za-z_][\w']{3,}")
_DEFINED = re.compile(
  r"(?:\b(?:let(?:\s+rec)?|def|fn|func|function|class|struct|enum|trait|interface|type|const|val|"
  r"var|theorem|lemma|Theorem|Lemma|Definition|Fixpoint)|\#define)\s+"
  r"(?P<name>[A-Za-z_][\w']{3,})(?=\s*[=:(\[{<]|(?:[ \t]+[\w']+)+\s*:?=)"
)


class Place(NamedTuple):
  """One use of a name."""

  distance: int | None  # windows since its definition; None at the definition
  tokens: np.ndarray  # indices of the tokens that spell it


def places(text: str, spans: np.ndarray, window_length: int) -> Iterator[Place]:
  """Definitions of names that the text has not used before, and the uses that follow.

  Args:
    text: a document.
    spans: of its tokens, [N, 2].
    window_length: W.
  """
  definitions = {match.start("name") for match in _DEFINED.finditer(text)}
  seen: set[str] = set()
  defined: dict[str, int] = {}
  last: dict[str, int] = {}
  for match in _NAME.finditer(text):
    name, new = match[0], match[0] not in seen
    seen.add(name)
    begins = new and match.start() in definitions
    if not begins and name not in defined:
      continue
    tokens = tokens_of(spans, *match.span())
    window = int(tokens[0]) // window_length
    distance = None if begins else window - defined[name]
    given_away = bool(distance) and last[name] == window
    defined.setdefault(name, window)
    last[name] = window
    if tokens[0] > 0 and not given_away:  # the first token of a document has no loss
      yield Place(distance, tokens)


def measure(config: Any) -> dict[str, Any]:
  """Reads the documents of `grain_eval_files` with memory and without.

  Raises:
    ValueError: if there are no documents or no definitions, or if the config asks to forget.
  """
  source, spans, tokens = eval_documents(config), Spans(config), Tokens()
  spans(source[0].text, Tokenizer(config)(source[0].text))  # fails before a long reading
  first, uses = [], []
  for on, off in read_twice(config, source, tokens):
    for place in places(on.text, spans(on.text, on.tokens), config.melodi_window_length):
      (hit, with_memory), (_, without) = losses(on, place), losses(off, place)
      to = first if place.distance is None else uses
      to.append(Pair(on.index, place.distance or 0, hit, with_memory, without))
  if not uses:
    raise ValueError(
      f"no name is defined and used again in the documents of {config.grain_eval_files}; the probe "
      "new_names is for code and proofs."
    )
  return {
    "what": "Names that the document defines, where it uses them again; nats per name; first use: "
    "where it defines them.",
    "documents": len(source),
    **tokens.counted(),
    "first_use": paired.rates(first or uses),
    "points": paired.points(uses, doubling_ranges(max(pair.distance for pair in uses))),
  }


def losses(document: ScoredDocument, place: Place) -> tuple[bool, float]:
  """Whether all tokens of a name were the first choice, and their nats."""
  at: Sequence[int] | np.ndarray = place.tokens - 1  # the losses begin with the second token
  return bool(document.hits[at].all()), float(document.nats[at].sum(dtype=np.float64))
