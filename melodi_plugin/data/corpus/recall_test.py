"""The task's promises: what was defined once is asked for, exactly as late as was wanted."""

import collections

import pytest
import sentencepiece

from melodi_plugin.data.corpus import mqar, recall

TASK = mqar.Task(window_length=7, keys=5, values=3)


def windows_of(document, length):
  words = document.text.split()
  assert len(words) % length == 0
  return [words[start : start + length] for start in range(0, len(words), length)]


def kind(window):
  """Whether a window defines, and whether it asks; all else is noise."""
  defines, asks = window[0].startswith("k"), recall.QUERY in window
  assert not defines or window[1].startswith("v")
  assert not asks or [word[0] for word in window[-3:]] == ["?", "k", "v"]
  rest = window[2 if defines else 0 : -3 if asks else None]
  assert set(rest) <= set(recall.NOISE)
  return defines, asks


def test_every_symbol_is_one_token():
  tokenizer = sentencepiece.SentencePieceProcessor(model_proto=recall.tokenizer())
  for document in [*recall.documents(5, 30), *recall.training_documents(20)]:
    ids, words = tokenizer.encode(document.text), document.text.split()
    assert len(ids) == len(words) and len(set(ids)) == len(set(words))
    assert tokenizer.decode(ids) == document.text


@pytest.mark.parametrize("distance", [1, 2, 5, 9, 40])
def test_every_pair_is_asked_for_once_at_the_distance(distance):
  pairs = min(distance, TASK.keys)
  for document in recall.documents(3, distance, task=TASK):
    found = [kind(window) for window in windows_of(document, 7)]
    silent = distance - pairs
    assert found == [(True, False)] * pairs + [(False, False)] * silent + [(False, True)] * pairs
    asked = list(mqar.queries(document.text.split(), 7))
    assert [query.distance for query in asked] == [distance] * pairs


def test_answers_are_the_values_that_were_defined():
  for document in [*recall.training_documents(200), *recall.documents(5, 9)]:
    value_of = {}
    for window in windows_of(document, 6):
      defines, asks = kind(window)
      if defines:
        key, value = window[:2]
        assert key not in value_of
        value_of[key] = value
      if asks:
        assert value_of[window[-2]] == window[-1]


def test_documents_to_learn_from_have_every_kind_of_window_and_length():
  documents = recall.training_documents(400)
  assert documents == recall.training_documents(400)
  assert documents != recall.training_documents(400, seed=3)
  lengths, kinds, furthest = collections.Counter(), set(), 0
  for document in documents:
    windows = windows_of(document, 6)
    lengths[len(windows)] += 1
    kinds |= set(map(kind, windows))
    asked = mqar.queries(document.text.split(), 6)
    furthest = max([furthest, *(query.distance for query in asked)])
  assert sorted(lengths) == [2, 4, 8, 16, 32] and lengths[2] > lengths[32]
  assert len(kinds) == 4
  assert 24 < furthest < 32


def test_documents_to_measure_with_are_others_at_every_distance_and_seed():
  texts = [
    document.text
    for distance in (8, 9)
    for seed in (1, 2)
    for document in recall.documents(3, distance, seed, TASK)
  ]
  assert len(set(texts)) == 12
