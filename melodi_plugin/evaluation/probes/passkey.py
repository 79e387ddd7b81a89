"""Passkey retrieval: a number hidden in filler text, asked for d windows later.

The text is the one that most papers use.  Distances are measured with the tokenizer of the config,
from the last mention of the key to the answer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from melodi_plugin.data.documents import Document
from melodi_plugin.data.spans import Spans, tokens_of
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes.reading import Tokens, read
from melodi_plugin.evaluation.probes.result import Answer, points

DISTANCES = (0, 1, 2, 4, 8, 16, 32, 64, 128)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_HIDDEN = "The pass key is {key}. Remember it. {key} is the pass key."
_QUESTION = "What is the pass key? The pass key is {key}."
_ATTEMPTS = 20

# From a text to the tokens of the last mention of the key before the question, and of the answer.
Locate = Callable[[str, str], tuple[np.ndarray, np.ndarray]]


def make_document(
  key: str, distance: int, before: int, window_length: int, locate: Locate
) -> str | None:
  """Filler with the key in it, and the question `distance` windows after the key.

  Args:
    key: the number.
    distance: windows from the first token of the last hidden mention to that of the answer.
    before: words of filler in front.
    window_length: W.
    locate: finds the mentions.

  Returns:
    The text, or None if there is none: a short window may not hold the question too.
  """
  words = distance * window_length
  for _ in range(_ATTEMPTS):
    between = [*_filler(before), _HIDDEN.format(key=key), *_filler(words)]
    text = " ".join([*between, _QUESTION.format(key=key)])
    hidden, answer = (int(tokens[0]) for tokens in locate(text, key))
    found = answer // window_length - hidden // window_length
    if found == distance:
      return text
    if words == 0 and found > distance:
      return None
    # Aims at the middle of the answer's window.
    aim = (hidden // window_length + distance) * window_length + window_length // 2
    step = round((aim - answer) * words / (answer - hidden)) or (1 if aim > answer else -1)
    words = max(0, words + step)
  return None


def _filler(words: int) -> list[str]:
  cycle = FILLER.split()
  return [cycle[i % len(cycle)] for i in range(words)]


def make_locate(config: Any) -> Locate:
  """`Locate` for the tokenizer of `config`."""
  tokenize, spans = Tokenizer(config), Spans(config)

  def locate(text: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    answer = text.rindex(key)
    hidden = text.rindex(key, 0, answer)
    of_text = spans(text, tokenize(text))
    found = [tokens_of(of_text, begin, begin + len(key)) for begin in (hidden, answer)]
    return found[0], found[1]

  return locate


def measure(config: Any, count: int = 32, seed: int = 0) -> dict[str, Any]:
  """Reads `count` documents per distance and finds how often the whole key comes out right.

  Raises:
    ValueError: if the window is too short for any of the distances.
  """
  window, locate = config.melodi_window_length, make_locate(config)
  random = np.random.default_rng(seed)
  hidden: list[tuple[int, str, Document]] = []
  for distance in DISTANCES:
    for number in range(count):
      key, before = str(random.integers(10_000, 100_000)), int(random.integers(4 * window))
      text = make_document(key, distance, before, window, locate)
      if text is not None:
        name = f"passkey-{distance}-{number}"
        hidden.append((distance, key, Document(name, text)))
  if not hidden:
    raise ValueError(f"windows of {window} tokens are too short for the probe passkey.")
  answers, tokens = [], Tokens()
  for document in read(config, [document for _, _, document in hidden], tokens):
    distance, key, _ = hidden[document.index]
    at = locate(document.text, key)[1] - 1  # the losses begin with that of the second token
    nats = float(document.nats[at].sum(dtype=np.float64))
    answers.append(Answer(distance, bool(document.hits[at].all()), nats))
  return {
    "what": "A number of five digits in filler text; right if all its tokens are; nats per key.",
    "documents": len(hidden),
    **tokens.counted(),
    "points": points(answers, [(distance, distance) for distance in DISTANCES]),
  }
