"""The probe `mqar`: recall of the corpus of the same name (`data/corpus/mqar.py`)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from melodi_plugin.data.corpus.mqar import Task, documents, queries
from melodi_plugin.data.documents import Document
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes.reading import Tokens, read
from melodi_plugin.evaluation.probes.result import Answer, points


def measure(config: Any, count: int = 256, task: Task | None = None) -> dict[str, Any]:
  """Reads fresh documents and finds how often the answer is the model's first choice.

  Raises:
    ValueError: if the tokenizer of `config` does not give one token per symbol.
  """
  task = dataclasses.replace(task or Task(), window_length=config.melodi_window_length)
  what = f"{task.keys} keys, bound again every {task.keys} windows, {task.values} values."
  return {"what": what} | ask(config, documents(count, task=task), task)


def ask(config: Any, source: Sequence[Document], task: Task) -> dict[str, Any]:
  """What is found in documents of windows that define keys and ask for them, by distance.

  Raises:
    ValueError: if the tokenizer of `config` does not give one token per symbol.
  """
  ids, words = Tokenizer(config)(source[0].text), source[0].text.split()
  if len(ids) != len(words) or len(set(ids)) != len(set(words)):
    raise ValueError(
      f"the tokenizer {config.tokenizer_path} does not give one token per symbol; the probe "
      f"{config.melodi_probe} is for models that were trained on the corpus that "
      f"melodi_prepare_data: {config.melodi_probe} writes."
    )
  answers, tokens = [], Tokens()
  for document in read(config, source, tokens):
    for query in queries(document.text.split(), task.window_length):
      at = query.position - 1  # the losses begin with that of the second token
      answers.append(Answer(query.distance, bool(document.hits[at]), float(document.nats[at])))
  distances = sorted({answer.distance for answer in answers})
  return {
    "chance": 1 / task.values,
    "documents": len(source),
    **tokens.counted(),
    "points": points(answers, [(distance, distance) for distance in distances]),
  }
