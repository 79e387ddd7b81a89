"""Which words are rare, how far back their last use is, and what they cost."""

import numpy as np

from melodi_plugin.evaluation.probes import rare_words
from melodi_plugin.evaluation.reading import ScoredDocument


def test_rare_words_are_long_and_in_few_documents():
  texts = ["Hermia loves Lysander, loves _him", "Orlando loves Rosalind", "def fold_left2(): 12345"]
  rare, most = rare_words.rare_words(texts)
  assert rare == {"Hermia", "Lysander", "Orlando", "Rosalind", "fold_left2"}
  assert most == 1
  rare, most = rare_words.rare_words(["Hermia"] * 3 + ["Theseus"] * 2 + ["other"] * 295)
  assert (rare, most) == ({"Hermia", "Theseus"}, 3)


def test_uses_know_their_distance_and_their_cost():
  # One token per character: 6 tokens per word, windows of 8.
  text = "Hermia alone Hermia Hermia.......Hermia"
  spans = np.array([[i, i + 1] for i in range(len(text))])
  nats = np.arange(1, len(text), dtype=np.float32)
  hits = np.ones(len(text) - 1, bool)
  hits[21] = False  # inside the third use
  document = ScoredDocument(0, "a", text, np.arange(len(text)), nats, hits)
  uses = list(rare_words.uses(document, {"Hermia"}, spans, 8))
  # The first use holds the first token, which has no loss; its place is known all the same.
  assert [(use.distance, use.hit) for use in uses] == [(1, True), (1, False), (2, True)]
  assert uses[0].nats == sum(range(13, 19))


def test_a_first_use_has_no_distance():
  text = "a Hermia b"
  spans = np.array([[0, 1], [1, 5], [5, 8], [8, 10]])
  document = ScoredDocument(
    0, "a", text, np.arange(4), np.array([1.0, 2.0, 4.0], np.float32), np.array([True, True, False])
  )
  (use,) = rare_words.uses(document, {"Hermia"}, spans, 8)
  assert use == rare_words.Use(None, True, 3.0)
