"""The probes `ruler` and `babilong`: texts of several lengths, read and asked."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.evaluation.probes.reading import eval_documents
from melodi_plugin.evaluation.probes.suites import counting, needles, stories, tally, tracing
from melodi_plugin.evaluation.probes.suites.fitting import count_tokens, fit
from melodi_plugin.evaluation.probes.suites.forks import Forks, SampleRead, is_right
from melodi_plugin.evaluation.probes.suites.questions import Make, Sample
from melodi_plugin.evaluation.probes.suites.tally import Scored
from melodi_plugin.evaluation.probes.suites.texts import Texts
from melodi_plugin.output.bars import tokens_bar
from melodi_plugin.serving.checkpoint import Checkpoint

RULER: Mapping[str, Make] = needles.TASKS | tracing.TASKS | counting.TASKS
BABILONG: Mapping[str, Make] = stories.TASKS
_WINDOWS = (4, 16, 64)  # of a text, where melodi_probe_lengths says nothing
_SLOTS = 8  # half of them read texts, half go on with answers
_SEED = 0


def ruler(config: Any) -> dict[str, Any]:
  """RULER's eleven generated tasks; see `measure`."""
  what = "RULER's generated tasks: right if the answer is likelier than every wrong one."
  return {"what": what} | measure(config, RULER)


def babilong(config: Any) -> dict[str, Any]:
  """BABILong's first five tasks; see `measure`."""
  what = "BABILong's tasks 1 to 5: right if the answer is likelier than every other one."
  return {"what": what} | measure(config, BABILONG)


def measure(config: Any, tasks: Mapping[str, Make]) -> dict[str, Any]:
  """Makes texts of the documents of `grain_eval_files`, reads them and asks.

  Raises:
    ValueError: if a key names no task or length, or if no text is long enough for any task.
  """
  chosen = chosen_tasks(config, tasks)
  lengths = chosen_lengths(config)
  source = eval_documents(config)
  texts = Texts(source[index].text for index in range(len(source)))
  samples, too_short = make_samples(
    {name: tasks[name] for name in chosen},
    lengths,
    int(config.melodi_probe_texts),
    texts,
    Tokenizer(config),
  )
  if not samples:
    raise ValueError(
      f"no task of the probe {config.melodi_probe} fits into {max(lengths):,} tokens; give longer "
      "melodi_probe_lengths."
    )
  checkpoint = Checkpoint(config, _SLOTS, scores=True)
  forks = Forks(
    checkpoint.engine,
    checkpoint.tokenizer,
    forget=config.melodi_reset_every_window,
    writes=config.melodi_probe_writes,
  )
  answers, given, read = hear(forks, samples, config.melodi_window_length)
  return summarise(answers) | {
    "documents": len(samples),
    "tokens": given,
    "tokens_read": read,
    "too_short": too_short,
  }


def summarise(answers: Sequence[Scored]) -> dict[str, Any]:
  """The part of a result that answers make."""
  return {
    "chance": tally.rates(answers)["chance"],
    "points": tally.by_distance(answers),
    "tasks": tally.by_task(answers),
  }


def chosen_tasks(config: Any, tasks: Mapping[str, Make]) -> list[str]:
  """Those of `melodi_probe_tasks`, or all; raises ValueError for one that is none."""
  names = [name.strip() for name in config.melodi_probe_tasks.split(",") if name.strip()]
  if unknown := [name for name in names if name not in tasks]:
    raise ValueError(
      f"melodi_probe_tasks names {unknown[0]}, which is no task of the probe "
      f"{config.melodi_probe}; choose of {', '.join(tasks)}."
    )
  return names or list(tasks)


def chosen_lengths(config: Any) -> list[int]:
  """Those of `melodi_probe_lengths`, or 4, 16 and 64 windows; raises ValueError for no number."""
  words = [word.strip() for word in config.melodi_probe_lengths.split(",") if word.strip()]
  if not all(word.isdecimal() and int(word) > 0 for word in words):
    raise ValueError(
      f"melodi_probe_lengths={config.melodi_probe_lengths} is not a list of numbers of tokens; "
      "write it as melodi_probe_lengths=4096,16384."
    )
  return [int(word) for word in words] or [n * config.melodi_window_length for n in _WINDOWS]


Named = tuple[str, int, Sample]


def make_samples(
  tasks: Mapping[str, Make], lengths: Sequence[int], count: int, texts: Texts, tokenizer: Tokenizer
) -> tuple[list[Named], list[str]]:
  """`count` texts per task and length; and the tasks that a length is too short for, in words."""
  samples: list[Named] = []
  too_short: list[str] = []
  for length, (task, make) in itertools.product(lengths, tasks.items()):
    for nth in range(count):
      seed = (_SEED, length, nth, *task.encode())  # the same whatever else is asked
      sample = fit(make, seed, texts, length, lambda made: count_tokens(tokenizer, made))
      if sample is None:
        too_short.append(f"{task} in {length:,} tokens")
        break
      samples.append((task, length, sample))
  return samples, too_short


def hear(
  forks: Forks, samples: Sequence[Named], window_length: int
) -> tuple[list[Scored], int, int]:
  """Reads all samples; returns their answers, and how many tokens they have and were read."""
  answers: list[Scored] = []
  given = read = 0
  number = itertools.count()
  with _bar(forks, samples) as advance:
    for first in range(0, len(samples), forks.together):
      some = samples[first : first + forks.together]
      readings = forks.read([sample for _, _, sample in some], advance)
      for (task, length, sample), reading in zip(some, readings, strict=True):
        answers += _scored(task, length, next(number), sample, reading, window_length)
        given, read = given + reading.tokens, read + reading.read
  return answers, given, read


def _bar(forks: Forks, samples: Sequence[Named]) -> Any:
  return tokens_bar("reading", sum(length for _, length, _ in samples))


def _scored(
  task: str, length: int, text: int, sample: Sample, reading: SampleRead, window: int
) -> Iterator[Scored]:
  for question, heard in zip(sample.questions, reading.heard, strict=True):
    chance = 1 / (1 + len(question.wrong))
    written = None if heard.written is None else is_right(question, heard.written)
    for nats, fact in zip(heard.right, heard.facts, strict=True):
      distance = max(0, heard.at // window - fact // window)
      hit = nats < min(heard.wrong)
      yield Scored(task, length, text, distance, hit, nats, chance, written)
