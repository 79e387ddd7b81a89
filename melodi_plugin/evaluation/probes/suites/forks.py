"""A text is read once, and what it is asked is answered from what is remembered of it.

All questions of a text, with all their answers, begin with the same tokens.  Those are read into a
slot of the engine of `serving`; every answer goes on in a copy of that slot.  So an answer costs
its own tokens only, and however long the text is, nothing of it is left out: tokens that a slot has
read are counted.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from melodi_plugin.evaluation.probes.suites.questions import Question, Sample
from melodi_plugin.serving.engine import Engine
from melodi_plugin.serving.sampling_settings import SamplingSettings
from melodi_plugin.serving.writing import Ends, write

_MORE = 2  # tokens that are written beyond those of the longest right answer


class Heard(NamedTuple):
  """What a model made of a question."""

  right: list[float]  # nats of every right answer
  wrong: list[float]
  written: str | None  # what it writes by itself; None if it was not asked to
  at: int  # tokens in front of the answer
  facts: list[int]  # tokens in front of the earliest fact of every right answer


class SampleRead(NamedTuple):
  """What was read of a sample, and heard."""

  heard: list[Heard]  # of every question
  tokens: int  # of the text with its longest question and answer
  read: int  # of them; fewer only if memory is reset at every window


class _Plan(NamedTuple):
  """The tokens of a sample."""

  prompts: list[np.ndarray]  # text and question
  answers: list[list[np.ndarray]]  # with an answer, right ones first
  shared: int  # how many are the same at the begin of all
  begin: int  # where reading begins


class Forks:
  """An engine whose first half of slots reads texts, and whose second half goes on with answers."""

  def __init__(self, engine: Engine, tokenizer: Any, *, forget: bool, writes: bool):
    """Takes an engine that scores.

    Args:
      engine: with an even number of slots.
      tokenizer: of the model, a `data.tokenizer.Tokenizer` or one with its calls.
      forget: memory is reset at every window, so only the open one is read.  An answer that crosses
        a window's end still sees the part before.
      writes: the model also writes an answer by itself, always its most probable token.
    """
    self._engine, self._tokenizer, self._forget, self._writes = engine, tokenizer, forget, writes
    self.together = engine.programs.slots // 2

  def read(
    self, samples: Sequence[Sample], on_tokens: Callable[[int], None] = lambda count: None
  ) -> Iterator[SampleRead]:
    """Reads up to `together` samples.

    Raises:
      ValueError: if the tokenizer cannot tell two answers apart.
      AssertionError: if a token was not read.
    """
    plans = [self._plan(sample) for sample in samples]
    for slot in range(len(plans)):
      self._engine.begin(slot)
    # The last shared token is read by every fork: it says what follows.
    texts = {
      slot: plan.answers[0][0][plan.begin : plan.shared - 1] for slot, plan in enumerate(plans)
    }
    self._engine.read_all(texts, on_tokens)
    for slot, (sample, plan) in enumerate(zip(samples, plans, strict=True)):
      heard = [self._hear(slot, sample, plan, number) for number in range(len(plan.prompts))]
      longest = max(map(len, itertools.chain(*plan.answers)))
      yield SampleRead(heard, longest, longest - plan.begin)

  def _plan(self, sample: Sample) -> _Plan:
    prompts = [self._tokenizer.prompt(sample.text + q.prompt) for q in sample.questions]
    answers = [
      [self._tokenizer.prompt(sample.text + q.prompt + answer) for answer in q.right + q.wrong]
      for q in sample.questions
    ]
    for question, own in zip(sample.questions, answers, strict=True):
      if len({ids.tobytes() for ids in own}) < len(own):
        raise ValueError(
          f"the tokenizer {self._tokenizer.path} makes the same tokens of two answers, as "
          f"{question.right[0].strip()!r}; this probe is for tokenizers that know its words."
        )
    shared = _shared([*prompts, *itertools.chain(*answers)])
    window = self._engine.window
    return _Plan(prompts, answers, shared, (shared - 1) // window * window if self._forget else 0)

  def _hear(self, slot: int, sample: Sample, plan: _Plan, number: int) -> Heard:
    question, answers = sample.questions[number], plan.answers[number]
    at = _shared([plan.prompts[number], *answers])
    nats: list[float] = []
    most = min(self.together, self._engine.programs.read_rows[-1])
    for first in range(0, len(answers), most):
      some = answers[first : first + most]
      nats += [float(own[at - plan.shared :].sum()) for own in self._nats(slot, plan, some)]
    count = len(question.right)
    facts = [len(self._tokenizer.prompt(sample.text[:fact])) for fact in question.facts]
    written = self._write(slot, plan, number) if self._writes else None
    return Heard(nats[:count], nats[count:], written, at, facts)

  def _nats(self, slot: int, plan: _Plan, answers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Float64, of every token behind the shared ones."""
    engine = self._engine
    rest = {self.together + i: ids[plan.shared - 1 :] for i, ids in enumerate(answers)}
    found: dict[int, list[np.ndarray]] = {fork: [] for fork in rest}
    for fork in rest:
      engine.copy(slot, fork)
    size = engine.programs.read_tokens
    for first in range(0, max(map(len, rest.values())) - 1, size):
      targets = {fork: ids[first + 1 : first + 1 + size] for fork, ids in rest.items()}
      targets = {fork: ids for fork, ids in targets.items() if len(ids)}
      pieces = {fork: rest[fork][first : first + len(ids)] for fork, ids in targets.items()}
      logprobs = engine.score(pieces, targets).logprobs
      for row, (fork, ids) in enumerate(targets.items()):
        found[fork].append(-np.asarray(logprobs[row], np.float64)[: len(ids)])
    for fork, ids in zip(rest, answers, strict=True):
      if engine.slots[fork].tokens != len(ids) - 1 - plan.begin:
        raise AssertionError(
          f"{engine.slots[fork].tokens} tokens were read of {len(ids) - 1 - plan.begin}; this is a "
          "bug of melodi_plugin"
        )
    return [np.concatenate(pieces) for pieces in found.values()]

  def _write(self, slot: int, plan: _Plan, number: int) -> str:
    """The most probable text behind a question."""
    engine, fork, prompt = self._engine, self.together, plan.prompts[number]
    engine.copy(slot, fork)
    engine.sample_with(fork, SamplingSettings(temperature=0.0, seed=0))
    engine.read_all({fork: prompt[plan.shared - 1 : -1]})
    longest = max(map(len, plan.answers[number])) - len(prompt)
    ends = Ends(longest + _MORE, ids=self._tokenizer.eos_ids)
    tokens = write(engine, fork, int(prompt[-1]), ends, self._tokenizer, after=prompt.tolist())
    return "".join(token.text for token in tokens)


def is_right(question: Question, written: str) -> bool:
  """Whether a text begins with a right answer, as whole words."""
  text = written.strip()
  answers = [answer.strip() for answer in question.right]
  return any(text.startswith(a) and not text[len(a) : len(a) + 1].isalnum() for a in answers)


def _shared(texts: Sequence[np.ndarray]) -> int:
  """How many tokens all begin with."""
  shortest = min(map(len, texts))
  same = np.all([own[:shortest] == texts[0][:shortest] for own in texts], axis=0)
  return shortest if same.all() else int(same.argmin())
