"""The probe `recall`: the corpus of the same name (`data/corpus/recall.py`), asked far later."""

import dataclasses
import math
from typing import Any

from melodi_plugin.data.corpus.mqar import Task
from melodi_plugin.data.corpus.recall import documents
from melodi_plugin.evaluation.probes import mqar

DISTANCES = tuple(2**i for i in range(13))  # 1 to 4096 windows


def measure(config: Any, count: int = 96, task: Task | None = None) -> dict[str, Any]:
  """Asks at least `count` times at every distance, which each fresh document has one of.

  Raises:
    ValueError: if the tokenizer of `config` does not give one token per symbol.
  """
  task = dataclasses.replace(task or Task(), window_length=config.melodi_window_length)
  source = [
    document
    for distance in reversed(DISTANCES)  # the longest first, so that all rows end together
    for document in documents(math.ceil(count / min(task.keys, distance)), distance, task=task)
  ]
  what = f"At most {task.keys} keys, bound once, then noise until they are asked for; "
  return {"what": f"{what}{task.values} values."} | mqar.ask(config, source, task)
