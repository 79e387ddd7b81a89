"""Streams give the text of all their tokens, piece by piece, whatever tokenizer and text."""

import io
import itertools
import os
import pathlib
from importlib import resources
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import sentencepiece
import tokenizers
import transformers
from hypothesis import strategies as st

from melodi_plugin.checkpoints.gguf import tokenizer as gguf_tokenizer
from melodi_plugin.checkpoints.gguf.importer import open_gguf
from melodi_plugin.data.corpus import corpus_tokenizer
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.serving.text import TextStream
from melodi_plugin.testing.cases import broad_but

ASSETS = resources.files("maxtext") / "assets" / "tokenizers"
BROKEN = "\ufffd"
KINDS = ("bytes", "byte_fallback", "corpus", "squeezed", "llama2", "tiktoken")
# Emoji of several code points, combining marks, CJK, right-to-left, and what tokenizers split at.
CHARACTERS = st.one_of(
  st.sampled_from(
    ["👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "ड़", "中文", "שלום", "\u200d", "\ufeff", "\ufffd"]
  ),
  st.sampled_from([" ", "  ", "\n\n"]),
  st.characters(exclude_categories=["Cs"]),
  st.sampled_from("abc the ▁Ġ"),
)
TEXTS = st.lists(CHARACTERS, max_size=24).map("".join)


def _open(path, kind) -> Tokenizer:
  keys = dict(add_bos=False, add_eos=False, vocab_size=300_000, hf_access_token="")
  keys |= dict(tokenizer_path=str(path), tokenizer_type=kind, melodi_special_tokens_in_text=False)
  return Tokenizer(SimpleNamespace(**keys))


def _squeezed(path):
  """SentencePiece that takes all spaces at the begin of a text for none, as it does by default."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["to be or not to be", "that is"] * 9),
    model_writer=model,
    vocab_size=290,
    byte_fallback=True,
    minloglevel=2,
    hard_vocab_limit=False,
  )
  path.write_bytes(model.getvalue())
  return _open(path, "sentencepiece")


def _byte_fallback(folder):
  """As the Hugging Face tokenizers of llama and gemma: a few pieces, and bytes for the rest."""
  pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"▁abcthe", "▁t", "▁th"]
  model = tokenizers.models.BPE(
    {piece: i for i, piece in enumerate([*pieces, "▁the"])},
    [("▁", "t"), ("▁t", "h"), ("▁th", "e")],
    unk_token="<unk>",
    byte_fallback=True,
  )
  backend = tokenizers.Tokenizer(model)
  backend.normalizer = tokenizers.normalizers.Sequence(
    [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
  )
  steps = tokenizers.decoders
  backend.decoder = steps.Sequence(
    [steps.Replace("▁", " "), steps.ByteFallback(), steps.Fuse(), steps.Strip(" ", 1, 0)]
  )
  special = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
  fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
  fast.save_pretrained(folder)
  return _open(folder, "huggingface")


@pytest.fixture(name="tokenizer_of", scope="module")
def _tokenizer_of(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokenizers")
  (folder / "corpus.model").write_bytes(
    corpus_tokenizer.train(["To be, or not to be\nthat is"] * 9, vocab_size=290).model
  )
  return {
    "bytes": _open(ASSETS / "qwen3-tokenizer", "huggingface"),
    "byte_fallback": _byte_fallback(folder / "byte_fallback"),
    "corpus": _open(folder / "corpus.model", "sentencepiece"),
    "squeezed": _squeezed(folder / "squeezed.model"),
    "llama2": _open(ASSETS / "tokenizer.llama2", "sentencepiece"),
    "tiktoken": _open(ASSETS / "tokenizer_llama3.tiktoken", "tiktoken"),
  }


@pytest.fixture(name="smollm2", scope="module")
def _smollm2(tmp_path_factory):
  """The real one, where its file is."""
  file = os.environ.get("MELODI_SMOLLM2_GGUF", "")
  if not os.path.isfile(file):
    pytest.skip("MELODI_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf")
  folder = tmp_path_factory.mktemp("smollm2")
  gguf_tokenizer.build(open_gguf(pathlib.Path(file)).header).save_pretrained(folder)
  return _open(folder, "huggingface")


_KINDS = broad_but(["bytes", "byte_fallback", "corpus"], [*KINDS, "smollm2"], slow=["smollm2"])


@pytest.fixture(name="tokenizer", params=_KINDS)
def _tokenizer(request, tokenizer_of):
  return tokenizer_of.get(request.param) or request.getfixturevalue("smollm2")


class _Letters:
  """Ids are code points; those below 32 are special."""

  def is_text(self, token_id):
    return token_id >= 32

  def decode(self, ids):
    return "".join(map(chr, ids))


class _Words(_Letters):
  """Ids count the words of a list."""

  def __init__(self, words):
    self._words = words

  def is_text(self, token_id):
    return True

  def decode(self, ids):
    return "".join(self._words[i] for i in ids)


def _pieces(stream, ids):
  return [*(stream.add(i) for i in ids), stream.end()]


def _cut(text, stop):
  """Up to the stop string that is whole first, by trying every length."""
  for n in range(len(text) + 1):
    begins = [n - len(s) for s in stop if text[:n].endswith(s)]
    if begins:
      return text[: min(begins)]
  return text


def test_pieces_of_any_text_are_its_decoding(tokenizer):
  @hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
  @hypothesis.given(TEXTS, st.integers(0, 9))
  def check(text, prompt):
    ids = tokenizer.encode(text)
    pieces = _pieces(TextStream(tokenizer), ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    # What comes behind a prompt keeps its space, and nothing of the prompt is written again.
    whole, begin = tokenizer.decode(ids), tokenizer.decode(ids[:prompt])
    if not begin.endswith(BROKEN):
      behind = "".join(_pieces(TextStream(tokenizer, after=ids[:prompt]), ids[prompt:]))
      assert begin + behind == whole

  check()


def test_pieces_of_any_ids_are_their_decoding(tokenizer, tokenizer_of):
  """A model may write any token: broken UTF-8, special tokens, ids past the vocabulary."""
  size, special = tokenizer._size_and_special
  whole_and_broken = tokenizer.encode("é中😀")
  some = st.one_of(
    st.integers(0, size + 99), st.sampled_from(sorted(special)), st.sampled_from(whole_and_broken)
  )

  @hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
  @hypothesis.given(st.lists(some, max_size=40))
  def check(ids):
    text, whole = "".join(_pieces(TextStream(tokenizer), ids)), tokenizer.decode(ids)
    if (
      tokenizer is tokenizer_of["byte_fallback"] and BROKEN in whole
    ):  # the exception that the stream names
      assert len(text) <= len(whole)
      rest = iter(text.replace(BROKEN, ""))
      assert all(character in rest for character in whole.replace(BROKEN, ""))
    else:
      assert text == whole

  check()


@pytest.mark.parametrize("kind", ["bytes", "corpus", "llama2", "tiktoken"])
def test_bytes_that_never_become_a_character_are_given_out_exactly(tokenizer_of, kind):
  tokenizer = tokenizer_of[kind]
  chance = np.random.default_rng(0)
  alphabet = [tokenizer.encode(character) for character in "éπ中😀"]
  ids = list(itertools.chain(*alphabet))
  broken = [i for i in ids if tokenizer.decode([i]).endswith(BROKEN)]
  broken = broken or [i for i in range(2000) if tokenizer.decode([i]).endswith(BROKEN)]
  for _ in range(20):
    tokens = [*chance.choice(broken, 60).tolist(), *alphabet[3], *chance.choice(broken, 2).tolist()]
    stream = TextStream(tokenizer)
    pieces = _pieces(stream, tokens)
    assert "".join(pieces) == tokenizer.decode(tokens)
    assert len(stream._characters._ids) < 40  # the cost of a token is bounded


def test_a_character_is_held_back_until_it_is_whole(tokenizer_of):
  for kind in ("byte_fallback", "corpus", "llama2"):
    tokenizer = tokenizer_of[kind]
    stream, ids = TextStream(tokenizer), tokenizer.encode("😀")
    pieces = [stream.add(i) for i in ids]
    assert [*filter(None, pieces)] == ["😀"] == pieces[-1:]
    assert [stream.add(i) for i in ids[-4:-1]] == ["", "", ""]
    assert set(stream.end()) == {BROKEN}


def test_characters_before_broken_bytes_stay(tokenizer_of):
  tokenizer = tokenizer_of["byte_fallback"]
  good, (bad,), letter = tokenizer.encode("中")[1:], [258], tokenizer.encode("a")[1:]
  assert tokenizer.decode([*good, bad, *letter]) == BROKEN * 4 + "a"
  assert "".join(_pieces(TextStream(tokenizer), [*good, bad, *letter])) == f"中{BROKEN * 3}a"


def test_special_tokens_and_ids_without_a_token_have_no_text(tokenizer):
  ids = [*tokenizer.eos_ids, *tokenizer.encode("a the"), *tokenizer.eos_ids, 299_999]
  assert tokenizer.eos_ids
  assert "".join(_pieces(TextStream(tokenizer), ids)) == "a the"


def test_a_space_behind_a_space_is_kept_where_text_begins_without_one(tokenizer_of):
  tokenizer = tokenizer_of["squeezed"]
  space, t = tokenizer.library._tokenizer_model.piece_to_id(["▁", "t"])
  ids = [space, t, space, space, t]
  assert tokenizer.decode(ids) == "t  t"
  assert _pieces(TextStream(tokenizer), ids) == ["", "t", " ", " ", "t", ""]


def test_endless_spaces_and_newlines_cost_the_same_per_token(tokenizer_of):
  for kind, text in itertools.product(("bytes", "llama2", "corpus"), ("\n", " ")):
    tokenizer = tokenizer_of[kind]
    token = tokenizer.encode(f"a{text}")[-1]
    stream = TextStream(tokenizer)
    assert "".join(_pieces(stream, [token] * 200)) == tokenizer.decode([token] * 200)
    assert len(stream._characters._ids) < 8


@pytest.mark.parametrize(
  ("stop", "text", "expected"),
  [
    (["aab"], "aaab", "a"),
    (["aab"], "aaaaab, more", "aaa"),
    (["abab"], "ababab", ""),
    (["END"], "the END of", "the "),
    (["END"], "the EN", "the EN"),
    (["b", "abc"], "abc", "a"),
    (["c", "abc"], "abc", ""),
    (["x", "User:", "\n\n"], "well\n\nUser: x", "well"),
    (["é", "中"], "a中é", "a"),
    ([], "all of it", "all of it"),
  ],
)
def test_text_ends_before_the_stop_string_that_is_whole_first(stop, text, expected):
  assert _cut(text, stop) == expected
  stream = TextStream(_Letters(), stop)
  pieces = _pieces(stream, map(ord, text))
  assert "".join(pieces) == expected
  assert stream.stopped == (expected != text)
  assert stream.add(ord("z")) == "" == stream.end() or not stream.stopped


def test_a_stop_string_spans_tokens_and_only_its_begin_is_held_back():
  words = ["Hello", " <|", "end", "|>", " more", "less"]
  stream = TextStream(_Words(words), ["<|end|>"])
  assert [stream.add(i) for i in (0, 1, 2)] == ["Hello", " ", ""]
  assert stream.add(5) == "<|endless"
  assert [stream.add(i) for i in (1, 2, 3, 4)] == [" ", "", "", ""]
  assert stream.stopped
  assert stream.end() == ""


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True)
@hypothesis.given(
  st.lists(st.text("ab", min_size=1, max_size=4), max_size=8),
  st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_where_text_stops_does_not_depend_on_its_tokens(words, stop):
  text = "".join(words)
  by_word, by_letter = TextStream(_Words(words), stop), TextStream(_Letters(), stop)
  assert "".join(_pieces(by_word, range(len(words)))) == _cut(text, stop)
  assert "".join(_pieces(by_letter, map(ord, text))) == _cut(text, stop)
  assert by_word.stopped == by_letter.stopped == any(s in text for s in stop)


def test_an_empty_stop_string_is_refused():
  with pytest.raises(ValueError, match="A stop string is empty"):
    TextStream(_Letters(), ["a", ""])
