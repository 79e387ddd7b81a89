"""RULER's aggregation: the words that are most often in a list, or in a coded text.

Hsieh et al. 2024: ten common words 30 times each among rare ones 3 times (6 and 1 below 4096
tokens), without the example in front; coded words whose counts fall as 1 / rank^2.
"""

import string

import numpy as np

from melodi_plugin.evaluation.probes.suites.questions import WRONG, Draw, Make, Question, Sample

_COMMON, _ASKED = 10, 4  # common words; those of them that are scored
_SHORT, _FEW, _MANY = 4096, (6, 1), (30, 3)
_FREQUENT, _CODED_LETTERS, _TOKENS_PER_CODE = 3, 6, 50
_LIST_INTRO = (
  "Below is a numbered list of words. In these words, some appear more often than others. "
  "Memorize the ones that appear most often.\n"
)
_LIST_PROMPT = (
  "\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words that "
  "appear most often in the list are: 1."
)
_CODED_INTRO = (
  "Read the following coded text and track the frequency of each coded word. Find the three most "
  "frequently appeared coded words. "
)
_CODED_PROMPT = (
  "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three "
  "most frequently appeared words in the above coded text? Answer: According to the coded text "
  "above, the three most frequently appeared words are:"
)


def common_words(draw: Draw) -> Sample:
  """A list with `size` rare words.  The whole list is needed, from its first word on."""
  often, seldom = _FEW if draw.length < _SHORT else _MANY
  words = draw.texts.names(draw.random, _COMMON + max(draw.size, WRONG))
  common, rare = words[:_COMMON], words[_COMMON:]
  listed = draw.random.permutation([*common * often, *rare * seldom]).tolist()
  text = _LIST_INTRO + " ".join(f"{i}. {word}" for i, word in enumerate(listed, start=1))
  return Sample(text, [_whole(_LIST_PROMPT, len(_LIST_INTRO), common[:_ASKED], rare[:WRONG])])


def frequent_words(draw: Draw) -> Sample:
  """A text of about `size` coded words; the most frequent of all is the noise '....'."""
  random, letters = draw.random, list(string.ascii_lowercase)
  codes: dict[str, None] = {}
  while len(codes) < max(_FREQUENT + WRONG, draw.length // _TOKENS_PER_CODE):
    codes["".join(random.choice(letters, _CODED_LETTERS))] = None
  ranks = np.arange(1, len(codes) + 2, dtype=np.float64)
  counts = (draw.size * ranks**-2 * 6 / np.pi**2).astype(int)
  # Small texts have no gaps between the ranks that are asked for and the others.
  counts[: _FREQUENT + 1] = np.maximum(counts[: _FREQUENT + 1], counts[_FREQUENT + 1] + 1)
  words = ["....", *codes]
  said = [word for word, count in zip(words, counts.tolist(), strict=True) for _ in range(count)]
  text = _CODED_INTRO + " ".join(random.permutation(said).tolist())
  right, wrong = words[1 : 1 + _FREQUENT], words[1 + _FREQUENT : 1 + _FREQUENT + WRONG]
  return Sample(text, [_whole(_CODED_PROMPT, len(_CODED_INTRO), right, wrong)])


def _whole(prompt: str, start: int, right: list[str], wrong: list[str]) -> Question:
  answers = [tuple(f" {word}" for word in own) for own in (right, wrong)]
  return Question(prompt, answers[0], answers[1], (start,) * len(right))


TASKS: dict[str, Make] = {"common_words": common_words, "frequent_words": frequent_words}
