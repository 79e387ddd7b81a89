"""The probe `mqar`: recall of the corpus of the same name (`data/corpus/mqar.py`)."""

import dataclasses
from typing import Any

from melodi_plugin.data.corpus.mqar import Task, documents, queries
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes.reading import Tokens, read
from melodi_plugin.evaluation.probes.result import Answer, points


def measure(config: Any, count: int = 256, task: Task | None = None) -> dict[str, Any]:
  """Reads fresh documents and finds how often the answer is the model's first choice.

  Raises:
    ValueError: if the tokenizer of `config` does not give one token per symbol.
  """
  task = dataclasses.replace(task or Task(), window_length=config.melodi_window_length)
  source = documents(count, task=task)
  tokens, words = Tokenizer(config)(source[0].text), source[0].text.split()
  if len(tokens) != len(words) or len(set(tokens)) != len(set(words)):
    raise ValueError(
      f"the tokenizer {config.tokenizer_path} does not give one token per symbol; the probe mqar "
      "is for models that were trained on the corpus that melodi_prepare_data: mqar writes."
    )
  answers, tokens = [], Tokens()
  for document in read(config, source, tokens):
    for query in queries(document.text.split(), task.window_length):
      at = query.position - 1  # the losses begin with that of the second token
      answers.append(Answer(query.distance, bool(document.hits[at]), float(document.nats[at])))
  return {
    "what": f"{task.keys} keys, bound again every {task.keys} windows, {task.values} values.",
    "chance": 1 / task.values,
    "documents": count,
    **tokens.counted(),
    "points": points(answers, [(distance, distance) for distance in range(task.keys)]),
  }
