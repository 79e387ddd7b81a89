"""Delayed recall: pairs are defined, then noise for as long as wanted, then each is asked for.

A document is a row of windows, here with W = 6.  A window defines, asks, does both, or neither:

    k17 v3 n2 n7 n1 n5    defines: k17 is v3
    n5 n5 n0 n3 n4 n4     is silent: only noise, which is of no use
    n1 n6 n6 ? k17 v3     asks: what was k17?

A key is defined at most once per document, so its place in memory does not matter.  One symbol is
one token; sizes, and the symbols of keys and values, are those of MQAR (`mqar.py`).
"""

from collections.abc import Sequence

import numpy as np

from melodi_plugin.data.corpus import mqar
from melodi_plugin.data.corpus.mqar import QUERY, Task
from melodi_plugin.data.documents import Document

NOISE = tuple(f"n{i}" for i in range(8))
_TASK = Task()
_LENGTHS = (2, 4, 8, 16, 32)  # windows of the documents that are learned from


def training_documents(count: int, seed: int = 0, task: Task = _TASK) -> list[Document]:
  """Documents of 2 to 32 windows to learn the task from, with about as much text of each length.

  Half of them define and ask in every window, any pair again and again: there learning begins.
  The others tell their pairs, are silent, and ask for every pair once.
  """
  draw = np.random.default_rng([seed, 1])
  share = 1 / np.array(_LENGTHS)
  lengths = draw.choice(_LENGTHS, size=count, p=share / share.sum())
  made = []
  for number, (length, delayed) in enumerate(zip(lengths, draw.random(count) < 0.5, strict=True)):
    random = np.random.default_rng([seed, 0, number])
    if delayed:
      pairs = _pairs(task, int(random.integers(min(task.keys, length // 2))) + 1, random)
      asked = [pairs[i] for i in random.permutation(len(pairs))]
      silent = int(length) - 2 * len(pairs)
    else:
      pairs = _pairs(task, min(task.keys, int(length)), random)
      asked = [pairs[random.integers(min(i + 1, len(pairs)))] for i in range(length)]
      silent = -len(pairs)
    made.append(_document(f"recall-{seed}-{number}", pairs, silent, asked, task, random))
  return made


def documents(count: int, distance: int, seed: int = 1, task: Task = _TASK) -> list[Document]:
  """Documents to measure with, in which every pair is asked for exactly `distance` windows later.

  They tell as many pairs as fit, but no more than there are keys.
  """
  made = []
  for number in range(count):
    random = np.random.default_rng([seed, 2, distance, number])
    pairs = _pairs(task, min(task.keys, distance), random)
    name = f"recall-{seed}-{distance}-{number}"
    made.append(_document(name, pairs, distance - len(pairs), pairs, task, random))
  return made


def tokenizer(task: Task = _TASK) -> bytes:
  """A serialized sentencepiece model whose pieces are the symbols of the task."""
  return mqar.tokenizer(task, more=NOISE)


def _pairs(task: Task, count: int, random: np.random.Generator) -> list[list[str]]:
  keys = random.permutation(task.keys)[:count]
  return [[f"k{key}", f"v{random.integers(task.values)}"] for key in keys]


def _document(
  name: str,
  pairs: Sequence[list[str]],
  silent: int,
  asked: Sequence[list[str]],
  task: Task,
  random: np.random.Generator,
) -> Document:
  """Windows that define, `silent` ones, and windows that ask; together if `silent` is negative."""
  first = len(pairs) + silent  # window that asks
  words: list[str] = []
  for number in range(first + len(asked)):
    window = [str(symbol) for symbol in random.choice(NOISE, size=task.window_length)]
    if number < len(pairs):
      window[:2] = pairs[number]
    if number >= first:
      window[-3:] = [QUERY, *asked[number - first]]
    words += window
  return Document(name, " ".join(words))
