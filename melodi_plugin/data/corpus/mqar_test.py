"""The task's promises: one token per symbol, distances in windows, the latest binding."""

import collections

import pytest
import sentencepiece

from melodi_plugin.data.corpus import mqar

TASK = mqar.Task(window_length=8, keys=5, values=3)


def test_every_symbol_is_one_token_and_decoding_gives_the_text_back():
  tokenizer = sentencepiece.SentencePieceProcessor(model_proto=mqar.tokenizer())
  assert mqar.tokenizer() == mqar.tokenizer()
  symbols = set()
  for document in mqar.documents(20):
    ids, words = tokenizer.encode(document.text), document.text.split()
    assert len(ids) == len(words) and len(set(ids)) == len(set(words))
    assert tokenizer.decode(ids) == document.text
    symbols |= set(words)
  assert len(symbols) == mqar.Task.keys + mqar.Task.values + 2
  assert tokenizer.vocab_size() == len(symbols) + 3


def test_every_window_holds_a_definition_and_a_query():
  (document,) = mqar.documents(1, task=TASK, windows=30)
  words = document.text.split()
  assert len(words) == 30 * 8
  for start in range(0, len(words), 8):
    window = words[start : start + 8]
    assert [word[0] for word in window] == ["k", "v", ".", ".", ".", "?", "k", "v"]


def test_a_share_of_the_windows_asks():
  (document,) = mqar.documents(1, task=TASK, windows=400, share=0.5)
  assert 150 < document.text.split().count("?") < 250


def test_answers_are_the_latest_values():
  for document in mqar.documents(50, task=TASK, windows=40):
    words = document.text.split()
    value_of, defined_at = {}, {}
    for window in range(40):
      key, value = words[window * 8 : window * 8 + 2]
      assert window - defined_at.get(key, -5) >= 5
      value_of[key], defined_at[key] = value, window
      key, value = words[window * 8 + 6 : window * 8 + 8]
      assert value == value_of[key]


def test_queries_are_the_first_after_a_definition():
  text = "k0 v1 . ? k0 v1 k1 v0 . . . . k2 v2 . ? k1 v0 k1 v2 . ? k2 v2 k3 v0 . ? k1 v2"
  text += " k4 v0 . ? k1 v2"
  assert list(mqar.queries(text.split(), 6)) == [(5, 0), (17, 1), (23, 1), (29, 1)]


def test_every_distance_occurs_often():
  task = mqar.Task()
  distances = collections.Counter(
    query.distance
    for document in mqar.documents(256)
    for query in mqar.queries(document.text.split(), task.window_length)
  )
  assert sorted(distances) == list(range(task.keys))
  assert min(distances.values()) > 100


def test_training_documents_are_of_all_lengths_and_always_the_same():
  documents = mqar.training_documents(300)
  assert documents == mqar.training_documents(300)
  assert documents != mqar.training_documents(300, seed=3)
  lengths = collections.Counter(len(document.text.split()) // 6 for document in documents)
  assert sorted(lengths) == [2, 4, 8, 16, 32, 64]
  assert all(
    document.text.split()[3::6].count("?") * 6 == len(document.text.split())
    for document in documents
  )


def test_a_window_must_hold_a_definition_and_a_query():
  with pytest.raises(ValueError, match="melodi_window_length to 5"):
    mqar.Task(window_length=4)
