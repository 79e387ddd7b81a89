"""The probe's arithmetic, with a reader that remembers 64 windows."""

import types

import numpy as np
import pytest

from melodi_plugin.data.corpus.mqar import queries
from melodi_plugin.evaluation.probes import mqar, recall
from melodi_plugin.evaluation.reading import ScoredDocument

CONFIG = types.SimpleNamespace(
  melodi_window_length=6, melodi_probe="recall", tokenizer_path="tokenizer.model"
)


def remembers_64_windows(config, source, tokens):
  for index, document in enumerate(source):
    words = document.text.split()
    hits = np.zeros(len(words) - 1, bool)
    for query in queries(words, 6):
      hits[query.position - 1] = query.distance <= 64
    tokens.given, tokens.read = tokens.given + len(words), tokens.read + len(words)
    ids = np.arange(len(words))
    yield ScoredDocument(index, document.id, document.text, ids, np.where(hits, 0.5, 2.0), hits)


def words_as_tokens(config):
  return lambda text: [hash(word) for word in text.split()]


def test_points_are_at_powers_of_two_with_enough_answers(monkeypatch):
  monkeypatch.setattr(mqar, "read", remembers_64_windows)
  monkeypatch.setattr(mqar, "Tokenizer", words_as_tokens)
  found = recall.measure(CONFIG, count=30)
  assert [point["from"] for point in found["points"]] == [2**i for i in range(13)]
  for point in found["points"]:
    assert point["to"] == point["from"]
    assert 30 <= point["count"] < 30 + 24
    right = point["from"] <= 64
    assert (point["accuracy"], point["nats"]) == ((1.0, 0.5) if right else (0.0, 2.0))
  assert found["chance"] == 0.25
  assert found["tokens"] == found["tokens_read"] > 2 * 4096 * 6


def test_a_tokenizer_of_another_corpus_is_refused(monkeypatch):
  monkeypatch.setattr(mqar, "Tokenizer", lambda config: list)
  with pytest.raises(ValueError, match="melodi_prepare_data: recall writes"):
    recall.measure(CONFIG, count=1)
