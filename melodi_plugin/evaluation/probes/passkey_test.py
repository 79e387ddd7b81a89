"""Distances of a hidden key, with a tokenizer that splits words."""

import types

import pytest

from melodi_plugin.data.corpus import corpus_tokenizer
from melodi_plugin.evaluation.probes import passkey

WINDOW = 64


@pytest.fixture(name="locate", scope="module")
def _locate(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  texts = [passkey.FILLER + " key of the pass 0123456789 What remember Remember it?\n"] * 9
  path.write_bytes(corpus_tokenizer.train(texts, vocab_size=330).model or b"")
  return passkey.make_locate(
    types.SimpleNamespace(
      tokenizer_path=str(path),
      tokenizer_type="sentencepiece",
      add_bos=False,
      add_eos=False,
      hf_access_token="",
      melodi_special_tokens_in_text=False,
      vocab_size=400,
    )
  )


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 16, 128])
@pytest.mark.parametrize("before", [0, 13, 200])
def test_the_answer_comes_at_the_distance(locate, distance, before):
  text = passkey.make_document("71432", distance, before, WINDOW, locate)
  assert text is not None and text.count("71432") == 3
  hidden, answer = locate(text, "71432")
  assert answer[0] // WINDOW - hidden[0] // WINDOW == distance
  assert text.rindex("71432") == len(text) - 6


def test_located_tokens_spell_the_key(locate):
  hidden, answer = locate("Key 12345, and 12345. 12345", "12345")
  assert 1 <= len(hidden) <= 5 and 1 <= len(answer) <= 5 and answer[0] > hidden[-1]


def test_a_short_window_cannot_hold_key_and_question(locate):
  assert passkey.make_document("71432", 0, 0, 8, locate) is None
