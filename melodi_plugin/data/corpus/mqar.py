"""Multi-query associative recall (MQAR), with the distance from definition to query in windows.

A document is a row of windows of one form, here with W = 8:

    k17 v3 . . . ? k5 v2      window w defines k17, and asks for k5, which window w - d defined

The keys take turns: a key gets a new value every `keys` windows, so the right answer is the value
of its latest definition.  One symbol is one token.
"""

import collections
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import sentencepiece

from melodi_plugin.data.documents import Document

QUERY, FILLER = "?", "."
SHORTEST_WINDOW = 5  # a definition and a query


@dataclasses.dataclass(frozen=True)
class Task:
  """The sizes of the task.

  Attributes:
    window_length: W of the model that reads the documents.
    keys: number of keys.  A key is bound again after as many windows, so all distances are smaller.
    values: number of values; a guess is right once in `values` times.
  """

  window_length: int = 6
  keys: int = 24
  values: int = 4

  def __post_init__(self):
    if self.window_length < SHORTEST_WINDOW:
      raise ValueError(
        f"a window of {self.window_length} tokens cannot hold a definition and a query; set "
        f"melodi_window_length to {SHORTEST_WINDOW} or more."
      )


class Query(NamedTuple):
  """A place where a value has to be recalled."""

  position: int  # of the answer, among the words
  distance: int  # windows since the definition


def training_documents(count: int, seed: int = 0, task: Task = Task()) -> list[Document]:
  """Documents to learn the task from: every window asks, for any definition of the last windows.

  Their lengths double from 2 to 64 windows, with about as much text of each length: in a short
  document there is little to remember, which is where learning begins.
  """
  lengths = 2 ** np.arange(1, 7)
  drawn = np.random.default_rng([seed, 1]).choice(
    lengths, size=count, p=(1 / lengths) / (1 / lengths).sum()
  )
  return [_document(f"mqar-{seed}-{i}", seed, i, int(n), task, 1.0) for i, n in enumerate(drawn)]


def documents(
  count: int, seed: int = 1, task: Task = Task(), windows: int = 96, share: float = 1.0
) -> list[Document]:
  """Documents of `windows` windows each, to measure with; a `share` of the windows ask."""
  return [_document(f"mqar-{seed}-{i}", seed, i, windows, task, share) for i in range(count)]


def _document(
  name: str, seed: int, number: int, windows: int, task: Task, share: float
) -> Document:
  random = np.random.default_rng([seed, 0, number])
  turn = random.permutation(task.keys)
  pairs: collections.deque[tuple[str, str]] = collections.deque(maxlen=task.keys)
  words = []
  for window in range(windows):
    pairs.append((f"k{turn[window % task.keys]}", f"v{random.integers(task.values)}"))
    query = []
    if random.random() < share:
      query = [QUERY, *pairs[random.integers(len(pairs))]]
    filler = [FILLER] * (task.window_length - 2 - len(query))
    words += [*pairs[-1], *filler, *query]
  return Document(name, " ".join(words))


def queries(words: Sequence[str], window_length: int) -> Iterator[Query]:
  """The first query of every definition that has one: its answer stands nowhere else."""
  defined: dict[str, int] = {}
  for position, word in enumerate(words):
    if not word.startswith("k"):
      continue
    if not position or words[position - 1] != QUERY:
      defined[word] = position
    elif word in defined:
      answer = position + 1
      yield Query(answer, answer // window_length - defined.pop(word) // window_length)


def tokenizer(task: Task = Task(), more: Sequence[str] = ()) -> bytes:
  """A serialized sentencepiece model whose pieces are the symbols of the task, and `more`."""
  words = [f"k{i}" for i in range(task.keys)] + [f"v{i}" for i in range(task.values)]
  words += [QUERY, FILLER, *more]
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([" ".join(words)]),
    model_writer=model,
    model_type="word",
    vocab_size=len(words) + 3,  # <unk>, <s>, </s>
    character_coverage=1.0,
    normalization_rule_name="identity",
    num_threads=1,
    minloglevel=2,
  )
  return model.getvalue()
