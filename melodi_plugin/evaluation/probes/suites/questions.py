"""A text with things in it that can be asked for, and how they are asked for."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from melodi_plugin.evaluation.probes.suites.texts import Texts

WRONG = 7  # answers that a right one must beat, where a task can have as many as it likes


class Question(NamedTuple):
  """What is asked behind a text; every right answer must be likelier than all wrong ones."""

  prompt: str  # behind the text, up to the answer; answers begin with a space
  right: tuple[str, ...]
  wrong: tuple[str, ...]
  facts: tuple[int, ...]  # characters of the text at which the earliest fact of each right one is


class Sample(NamedTuple):
  """A text and its questions."""

  text: str
  questions: list[Question]


class Draw(NamedTuple):
  """What a sample is made of."""

  random: np.random.Generator
  texts: Texts
  size: int  # how much there is to hide things in, in units of the task
  length: int  # tokens that are aimed at


Make = Callable[[Draw], Sample]


def hide(
  random: np.random.Generator, hay: Sequence[str], facts: Sequence[str], intro: str
) -> tuple[str, list[int]]:
  """Puts facts between the sentences of `hay`, in their order, anywhere.

  Returns:
    The text, which begins with `intro`; and the character at which each fact begins.
  """
  places = np.sort(random.integers(0, len(hay) + 1, len(facts))).tolist()
  parts = [(place, True, fact) for place, fact in zip(places, facts, strict=True)]
  parts += [(place, False, sentence) for place, sentence in enumerate(hay)]
  pieces, starts, length = [intro], [], len(intro)
  for _, hidden, sentence in sorted(parts, key=lambda part: (part[0], not part[1])):
    if hidden:
      starts.append(length)
    pieces.append(f"{sentence} ")
    length += len(sentence) + 1
  return "".join(pieces).rstrip(), starts
