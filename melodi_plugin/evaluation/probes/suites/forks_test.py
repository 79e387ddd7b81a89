"""Answers that go on from what was read once: the same as if each had been read whole."""

import numpy as np
import pytest

from melodi_plugin.evaluation.probes.suites import suite, tally
from melodi_plugin.evaluation.probes.suites.forks import Forks, is_right
from melodi_plugin.evaluation.probes.suites.questions import Question, Sample
from melodi_plugin.evaluation.probes.suites.tally import Scored
from melodi_plugin.serving.engine import NO_PREFIX, extend_prefix
from melodi_plugin.testing.slots import ByteTokenizer, FakeEngine, answer, logprob_of, next_token

TEXT = "The key of the blue door is under the third stone."
QUESTIONS = [
  Question(" Where is it? It is", (" under", " a longer answer"), (" over", " in"), (0, 11)),
  Question(" Which door?", (" blue",), (" red",), (15,)),
]


def nats(text: str, end: str) -> float:
  """Of `end` behind `text`, as `FakeEngine` has it."""
  prefix, total = extend_prefix(NO_PREFIX, text.encode()), 0.0
  for token in end.encode():
    total -= float(logprob_of(next_token(prefix, 0, 259), token))
    prefix = extend_prefix(prefix, [token])
  return total


def forks(**more) -> Forks:
  tokenizer = ByteTokenizer()
  engine = FakeEngine(slots=6, window=16, read_tokens=8)
  return Forks(engine, tokenizer, **({"forget": False, "writes": False} | more))  # type: ignore


def test_answers_have_the_nats_of_the_whole_text():
  samples = [Sample(TEXT, QUESTIONS), Sample("Blue. " + TEXT, QUESTIONS[1:])]
  readings = list(forks().read(samples))
  for sample, reading in zip(samples, readings, strict=True):
    for question, heard in zip(sample.questions, reading.heard, strict=True):
      prompt = sample.text + question.prompt
      # A right and a wrong answer may share their first letters; those count for none of them.
      same = len(prompt) + (1 if question.right[0][0] == question.wrong[0][0] else 0)
      assert heard.at in (len(prompt), same)
      everywhere = [nats(prompt, a) for a in question.right + question.wrong]
      shift = everywhere[0] - heard.right[0]
      assert [n - shift for n in everywhere] == pytest.approx(heard.right + heard.wrong, rel=1e-6)
      assert heard.facts == list(question.facts) and heard.written is None
    assert reading.tokens == reading.read
  assert readings[0].tokens == len(TEXT + QUESTIONS[0].prompt + " a longer answer")


def test_without_memory_only_the_open_window_is_read():
  (reading,) = forks(forget=True).read([Sample(TEXT, QUESTIONS[1:])])
  at = len(TEXT + QUESTIONS[1].prompt)
  begin = (at - 1) // 16 * 16
  assert reading.tokens - reading.read == begin
  text = (TEXT + QUESTIONS[1].prompt)[begin:]
  (heard,) = reading.heard
  found = heard.right[0] - heard.wrong[0]
  assert found == pytest.approx(nats(text, " blue") - nats(text, " red"), rel=1e-6)


def test_the_model_writes_an_answer():
  (reading,) = forks(writes=True).read([Sample(TEXT, QUESTIONS)])
  for question, heard in zip(QUESTIONS, reading.heard, strict=True):
    longest = max(map(len, question.right + question.wrong))
    ids = answer((TEXT + question.prompt).encode(), longest + 2, end=258)
    assert heard.written == bytes(i for i in ids if i < 256).decode()


def test_answers_that_the_tokenizer_confuses_are_refused():
  question = Question("?", (" yes",), (" yes",), (0,))
  with pytest.raises(ValueError, match="makes the same tokens of two answers, as 'yes'"):
    list(forks().read([Sample(TEXT, [question])]))


def test_a_written_answer_is_right_as_a_whole_word():
  question = Question("?", (" 12", " kitchen"), (), (0, 0))
  for text, right in ((" 12.", True), ("123", False), (" Kitchen", False), ("kitchen", True)):
    assert is_right(question, text) == right


def test_samples_become_answers_with_distances():
  samples = [("niah", 99, Sample(TEXT, QUESTIONS)), ("qa", 50, Sample(TEXT, QUESTIONS[1:]))]
  answers, given, read = suite.hear(forks(writes=True), samples, 16)
  assert given == read > 2 * len(TEXT)
  at = len(TEXT + QUESTIONS[0].prompt)
  assert [answer.distance for answer in answers[:2]] == [at // 16, at // 16]
  assert [answer.text for answer in answers] == [0, 0, 0, 1]
  assert [answer.chance for answer in answers] == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 2])
  found = suite.summarise(answers)
  assert [(row["task"], row["length"], row["count"]) for row in found["tasks"]] == [
    ("niah", 99, 3),
    ("qa", 50, 1),
  ]
  assert sum(point["count"] for point in found["points"]) == 4
  result = found | {"probe": "ruler", "memory": "carried"}
  table = tally.table([result, result], ["a", "b"])
  assert [len(row) for row in table.rows] == [5, 5]
  assert tally.table_csv(result).count("\n") >= 5
  assert tally.picture(result).startswith(b"\x89PNG")


def test_intervals_are_over_texts():
  def rates(texts: int, every: int = 2):
    answers = [
      Scored("a", 9, text, 0, text % every == 0, 1.0, 0.5, None)
      for text in range(texts)
      for _ in range(40)
    ]
    return tally.rates(answers)

  one, few, many = rates(1), rates(4), rates(64)
  assert (one["low"], one["high"]) == (0.0, 1.0)
  # Forty answers of a text that are all alike say no more than one.
  assert few["low"] == 0.0 and few["high"] == 1.0
  assert 0.3 < many["low"] < 0.5 < many["high"] < 0.7
  assert np.isclose(many["accuracy"], 0.5) and many["written"] is None
  # All right: of 16 texts, though there are 640 answers.
  right = rates(16, every=1)
  assert right["accuracy"] == right["high"] == 1.0 and 0.75 < right["low"] < 0.85
