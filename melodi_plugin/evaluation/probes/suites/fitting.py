"""A text that is as long as asked for: its hay is made longer or shorter until it fits."""

from collections.abc import Callable

import numpy as np

from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes.suites.questions import Draw, Make, Sample
from melodi_plugin.evaluation.probes.suites.texts import Texts

_ATTEMPTS = 24
_FULL = 0.95  # of the length: enough


def count_tokens(tokenizer: Tokenizer, sample: Sample) -> int:
  """Of the text with its longest question and answer."""
  ends = [question.prompt + max(question.right, key=len) for question in sample.questions]
  return len(tokenizer.prompt(sample.text + max(ends, key=len)))


def fit(
  make: Make,
  seed: tuple[int, ...],
  texts: Texts,
  length: int,
  count: Callable[[Sample], int],
) -> Sample | None:
  """The sample of `seed` with as much hay as `length` tokens hold.

  Args:
    make: makes samples.
    seed: the same one draws alike for every amount of hay.
    texts: of the user.
    length: the most tokens.
    count: tokens of a sample.

  Returns:
    A sample of at most `length` tokens; None if it is too long with next to no hay.
  """
  best, low, high, size = None, 0, None, max(1, length // 20)
  for _ in range(_ATTEMPTS):
    sample = make(Draw(np.random.default_rng(seed), texts, size, length))
    tokens = count(sample)
    if tokens <= length:
      best, low = sample, size
      if tokens >= _FULL * length:
        return best
    else:
      high = size
    if high is not None and high - low <= 1:
      return best
    guess = min(size * length // tokens, 4 * size)  # a short sample is mostly its questions
    size = max(low + 1, guess if high is None else min(high - 1, guess))
  return best
