"""Spans of tokens for the three kinds of tokenizer that MaxText has."""

import base64
import types

import numpy as np
import pytest

from melodi_plugin.data.corpus import corpus_tokenizer
from melodi_plugin.data.spans import Spans, tokens_of
from melodi_plugin.data.tokenizer import Tokenizer

TEXT = "def fold_left(x):\n  return fold_left(xs)  # Ångström"
WORDS = ("fold_left", "return", "xs", "Ångström")


def _config(path: str, kind: str, **changes) -> types.SimpleNamespace:
  keys = {"tokenizer_path": path, "tokenizer_type": kind, "add_bos": False, "add_eos": False}
  keys |= {"hf_access_token": "", "melodi_special_tokens_in_text": False, "vocab_size": 100_000}
  return types.SimpleNamespace(**(keys | changes))


def _sentencepiece(folder) -> types.SimpleNamespace:
  texts = [
    "fold_left return def fold_right map_left\n" * 20,
    "the ring on the left, returned\n" * 9,
  ]
  path = folder / "tokenizer.model"
  path.write_bytes(corpus_tokenizer.train(texts, vocab_size=330).model or b"")
  return _config(str(path), "sentencepiece", add_bos=True)


def _tiktoken(folder) -> types.SimpleNamespace:
  tokens = [bytes([i]) for i in range(256)] + [b"fo", b"ld", b" re", b"turn"]
  path = folder / "tiktoken.model"
  lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
  path.write_text("\n".join(lines))
  return _config(str(path), "tiktoken", add_bos=True, add_eos=True)


def _huggingface(folder) -> types.SimpleNamespace:
  tokenizers = pytest.importorskip("tokenizers")
  from transformers import PreTrainedTokenizerFast

  model = tokenizers.ByteLevelBPETokenizer()
  model.train_from_iterator([TEXT] * 9, vocab_size=300, show_progress=False)
  fast = PreTrainedTokenizerFast(
    tokenizer_object=model._tokenizer,
    eos_token="<|end_of_text|>",
    clean_up_tokenization_spaces=False,
  )
  fast.save_pretrained(folder / "hf")
  return _config(str(folder / "hf"), "huggingface")


@pytest.mark.parametrize("make", [_sentencepiece, _tiktoken, _huggingface])
def test_the_tokens_of_a_word_are_those_that_spell_it(make, tmp_path):
  config = make(tmp_path)
  tokens = Tokenizer(config)(TEXT)
  spans = Spans(config)(TEXT, tokens)
  assert len(spans) == len(tokens)
  for word in WORDS:
    begin = TEXT.rindex(word)
    own = tokens_of(spans, begin, begin + len(word))
    assert np.array_equal(own, np.arange(own[0], own[-1] + 1))
    covered = TEXT[spans[own[0], 0] : spans[own[-1], 1]]
    assert word in covered and len(covered) <= len(word) + 2
    before, after = spans[: own[0]], spans[own[-1] + 1 :]
    assert (before[:, 1] <= begin).all() and (after[:, 0] >= begin + len(word)).all()


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("make", [_tiktoken, _huggingface])
def test_spans_of_special_tokens_in_a_text(make, special, tmp_path):
  config = make(tmp_path)
  config.melodi_special_tokens_in_text = special
  token = "<|end_of_text|>"
  text = f"return {token}xs"
  spans = Spans(config)(text, Tokenizer(config)(text))
  own = spans[tokens_of(spans, text.index(token), text.index(token) + len(token))]
  assert (len(own) == 1) == special
  assert text[own[0, 0] : own[-1, 1]].strip() == token


def test_tokens_that_share_a_character_belong_to_its_word():
  spans = np.array([[0, 2], [2, 2], [2, 3], [3, 5]])  # "ab", the two bytes of "é", " c"
  assert tokens_of(spans, 0, 3).tolist() == [0, 1, 2]
  assert tokens_of(spans, 4, 5).tolist() == [3]


def test_other_tokens_are_refused(tmp_path):
  config = _sentencepiece(tmp_path)
  tokens = Tokenizer(config)(TEXT)
  with pytest.raises(ValueError, match="cannot tell"):
    Spans(config)(TEXT, tokens[:-1])
