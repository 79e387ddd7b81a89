"""RULER's needles in a haystack: values hidden under keys, in eight arrangements.

Hsieh et al. 2024, "RULER: What's the Real Context Size of Your Long-Context Language Models?",
table 5 and appendix B.  Its essays are the user's documents here, and its words are theirs.
"""

import functools
import uuid
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from melodi_plugin.evaluation.probes.passkey import FILLER
from melodi_plugin.evaluation.probes.suites.questions import (
  WRONG,
  Draw,
  Make,
  Question,
  Sample,
  hide,
)

_NOISE = [f"{sentence}." for sentence in FILLER.rstrip(".").split(". ")]
_INTRO = (
  "Some special magic {values} are hidden within the following text. Make sure to memorize them. "
  "I will quiz you about the {values} afterwards.\n"
)
_NEEDLE = "One of the special magic {values} for {key} is: {value}."
_ONE = (
  "\nWhat is the special magic {value} for {key} mentioned in the provided text? "
  "The special magic {value} for {key} mentioned in the provided text is"
)
_ALL = (
  "\nWhat are all the special magic {value}s for {key} mentioned in the provided text? "
  "The special magic {value}s for {key} mentioned in the provided text are"
)


class Kind(NamedTuple):
  """An arrangement: what the hay is, what keys and values are, and how many are hidden."""

  hay: Literal["noise", "text", "needles"]
  key: Literal["word", "uuid"] = "word"
  value: Literal["number", "uuid"] = "number"
  keys: int = 1
  values: int = 1  # of the key that is asked for
  queries: int = 1  # keys that are asked for


KINDS = {
  "niah_single_1": Kind("noise"),
  "niah_single_2": Kind("text"),
  "niah_single_3": Kind("text", value="uuid"),
  "niah_multikey_1": Kind("text", keys=4),
  "niah_multikey_2": Kind("needles"),
  "niah_multikey_3": Kind("needles", key="uuid", value="uuid"),
  "niah_multivalue": Kind("text", values=4),
  "niah_multiquery": Kind("text", keys=4, queries=4),
}


def make(kind: Kind, draw: Draw) -> Sample:
  """A text with needles: `size` sentences of hay, or other needles if these are the hay."""
  random = draw.random
  others = draw.size if kind.hay == "needles" else 0
  keys = _keys(kind, draw, kind.keys + others)
  values = _different(_value(kind, random), kind.values * kind.keys + others + WRONG)
  unseen = values[-WRONG:]
  pairs = [(key, values[i]) for i in range(kind.values) for key in keys[:1]]
  pairs += zip(keys[1:], values[kind.values :], strict=False)
  said = [_NEEDLE.format(values=f"{kind.value}s", key=key, value=value) for key, value in pairs]
  hidden = kind.keys + kind.values - 1
  order = random.permutation(hidden)
  hay = said[hidden:] or _hay(kind, draw)
  intro = _INTRO.format(values=f"{kind.value}s")
  text, starts = hide(random, hay, [said[i] for i in order], intro)
  place = dict(zip(order.tolist(), starts, strict=True))
  questions = []
  for asked in range(kind.queries):
    own = range(kind.values) if kind.values > 1 else range(asked, asked + 1)
    right = tuple(f" {pairs[i][1]}" for i in own)
    seen = [value for i, (_, value) in enumerate(pairs) if i not in own]
    wrong = [*random.permutation(seen)[:WRONG].tolist(), *unseen][:WRONG]
    prompt = (_ALL if kind.values > 1 else _ONE).format(value=kind.value, key=keys[asked])
    facts = tuple(place[i] for i in own)
    questions.append(Question(prompt, right, tuple(f" {value}" for value in wrong), facts))
  return Sample(text, questions)


def _hay(kind: Kind, draw: Draw) -> list[str]:
  return draw.texts.some(draw.random, draw.size) if kind.hay == "text" else noise(draw.size)


def noise(count: int) -> list[str]:
  """The same few sentences, again and again."""
  return [_NOISE[i % len(_NOISE)] for i in range(count)]


def _keys(kind: Kind, draw: Draw, count: int) -> list[str]:
  if kind.key == "word":
    return draw.texts.names(draw.random, count)
  return _different(lambda: _uuid(draw.random), count)


def _value(kind: Kind, random: np.random.Generator) -> Callable[[], str]:
  if kind.value == "uuid":
    return lambda: _uuid(random)
  return lambda: str(random.integers(10**6, 10**7))


def _uuid(random: np.random.Generator) -> str:
  return str(uuid.UUID(bytes=random.bytes(16), version=4))


def _different(new: Callable[[], str], count: int) -> list[str]:
  found: dict[str, None] = {}
  while len(found) < count:
    found[new()] = None
  return list(found)


TASKS: dict[str, Make] = {name: functools.partial(make, kind) for name, kind in KINDS.items()}
