"""What the documents of the user give to the suites: sentences and names."""

import re
from collections.abc import Iterable

import numpy as np

_MOST = 2**23  # characters of documents; more would be read for nothing
_END = re.compile(r"(?<=[.!?;])\s+|\s*\n\s*")
_WORD = re.compile(r"\b[a-z]{4,9}\b")
_FEWEST = 32  # different words, of which names are made


class Texts:
  """Sentences and words of documents.

  Attributes:
    sentences: in their order; a line ends one, too, for code and proofs.
    words: all different ones of four to nine small letters, sorted.
  """

  def __init__(self, documents: Iterable[str]):
    """Reads the first documents; raises ValueError if they have too few words."""
    self.sentences: list[str] = []
    words: set[str] = set()
    characters = 0
    for document in documents:
      self.sentences += [" ".join(part.split()) for part in _END.split(document) if part.strip()]
      words.update(_WORD.findall(document))
      characters += len(document)
      if characters > _MOST:
        break
    self.words = sorted(words)
    if len(self.words) < _FEWEST:
      raise ValueError(
        f"the documents of grain_eval_files have {len(self.words)} different words of four to nine "
        f"small letters, and this probe makes its names of {_FEWEST} or more; give it other ones."
      )

  def some(self, random: np.random.Generator, count: int) -> list[str]:
    """Sentences as they follow each other from a random one on, and round again at the end."""
    first = int(random.integers(len(self.sentences)))
    return [self.sentences[(first + i) % len(self.sentences)] for i in range(count)]

  def names(self, random: np.random.Generator, count: int) -> list[str]:
    """Different names of two words, as in 'lazy-crown'."""
    found: dict[str, None] = {}
    while len(found) < min(count, len(self.words) ** 2 // 2):
      first, second = random.choice(len(self.words), 2)
      found[f"{self.words[first]}-{self.words[second]}"] = None
    if len(found) < count:
      raise ValueError(
        f"{count:,} names are more than {len(self.words):,} words of the documents make; give more "
        "documents in grain_eval_files, or shorter melodi_probe_lengths."
      )
    return list(found)
