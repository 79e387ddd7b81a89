"""Ids, special tokens and errors of all three kinds of tokenizers."""

import base64
import io
import pickle
from importlib import resources
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
import transformers

from melodi_plugin.data.read_ahead import TokenReader
from melodi_plugin.data.records import BrokenDocument, Document
from melodi_plugin.data.tokenizer import Tokenizer

ASSETS = resources.files("maxtext") / "assets" / "tokenizers"


def _tokenizer(path, kind, **changes):
  config = {"add_bos": True, "add_eos": True, "vocab_size": 300_000, "hf_access_token": ""}
  config |= {"melodi_special_tokens_in_text": False}
  return Tokenizer(
    SimpleNamespace(tokenizer_path=str(path), tokenizer_type=kind, **(config | changes))
  )


@pytest.fixture(name="sentencepiece_model")
def _sentencepiece_model(tmp_path):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the cat sat", "on the mat"]),
    model_writer=model,
    vocab_size=300,
    byte_fallback=True,
    bos_id=-1,
    minloglevel=2,
    hard_vocab_limit=False,
  )
  (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
  return tmp_path / "tokenizer.model"


@pytest.fixture(name="hugging_face_model")
def _hugging_face_model(tmp_path):
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "the": 2, "cat": 3, "?": 4}, unk_token="?")
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="?"
  )
  fast.save_pretrained(tmp_path / "words")
  return tmp_path / "words"


@pytest.fixture(name="tiktoken_model")
def _tiktoken_model(tmp_path):
  """A byte is a token, its special tokens are MaxText's."""
  lines = [f"{base64.b64encode(bytes([i])).decode()} {i}" for i in range(256)]
  (tmp_path / "bytes.tiktoken").write_text("\n".join(lines))
  return tmp_path / "bytes.tiktoken"


@pytest.mark.parametrize(
  ("name", "kind", "bos", "eos"),
  [
    ("tokenizer.llama2", "sentencepiece", 1, 2),
    ("tokenizer_llama3.tiktoken", "tiktoken", 128000, 128001),
  ],
)
def test_bos_and_eos_are_what_the_keys_say(name, kind, bos, eos):
  text = "The cat\n  sat."
  plain = _tokenizer(ASSETS / name, kind, add_bos=False, add_eos=False)(text)
  both = _tokenizer(ASSETS / name, kind)(text)
  assert plain.dtype == np.int32
  assert both.tolist() == [bos, *plain.tolist(), eos]


@pytest.mark.parametrize(
  ("bos", "eos", "ids"),
  [(True, True, [0, 2, 3, 1]), (True, False, [0, 2, 3]), (False, False, [2, 3])],
)
def test_hugging_face_tokenizers_obey_the_keys_too(hugging_face_model, bos, eos, ids):
  tokenize = _tokenizer(hugging_face_model, "huggingface", add_bos=bos, add_eos=eos)
  assert tokenize("the cat").tolist() == ids


def test_tokenizer_can_be_sent_to_a_process(hugging_face_model):
  tokenize = _tokenizer(hugging_face_model, "huggingface")
  before = tokenize("the cat")
  assert pickle.loads(pickle.dumps(tokenize))("the cat").tolist() == before.tolist()


def test_missing_special_token_is_named(sentencepiece_model):
  with pytest.raises(ValueError, match="has no such special token; set add_bos=false"):
    _tokenizer(sentencepiece_model, "sentencepiece")("the cat")


def test_hugging_face_tokenizer_without_bos_is_named():
  tokenize = _tokenizer(ASSETS / "qwen3-tokenizer", "huggingface")
  with pytest.raises(ValueError, match="has no such special token; set add_bos=false"):
    tokenize("the cat")


def test_vocabulary_that_is_too_small_is_refused(hugging_face_model):
  with pytest.raises(ValueError, match="gives the id 3 but vocab_size is 3"):
    _tokenizer(hugging_face_model, "huggingface", vocab_size=3)("the cat")


def test_sentencepiece_reads_special_tokens_as_text(sentencepiece_model):
  ends = {"add_bos": False, "add_eos": False}
  ids = _tokenizer(sentencepiece_model, "sentencepiece", **ends)("the </s> cat <unk>")
  assert not {0, 1, 2} & set(ids.tolist())  # unknown, <s>, </s>
  with pytest.raises(ValueError, match="sentencepiece reads all spelled-out special tokens as"):
    _tokenizer(sentencepiece_model, "sentencepiece", melodi_special_tokens_in_text=True)


@pytest.mark.parametrize("special", [False, True])
def test_tiktoken_reads_special_tokens_as_the_key_says(tiktoken_model, special):
  tokenize = _tokenizer(tiktoken_model, "tiktoken", melodi_special_tokens_in_text=special)
  text = "a<|end_of_text|>"
  inner = [97, 257] if special else list(text.encode())
  assert tokenize(text).tolist() == [256, *inner, 257]


@pytest.mark.parametrize("special", [False, True])
def test_hugging_face_reads_special_tokens_as_the_key_says(hugging_face_model, special):
  tokenize = _tokenizer(hugging_face_model, "huggingface", melodi_special_tokens_in_text=special)
  unknown = [4, 4, 4]  # "<", "s" and ">"
  assert tokenize("the <s> cat").tolist() == [0, 2, *([0] if special else unknown), 3, 1]
  # Nothing of a text is taken for what add_bos and add_eos put around it.
  assert tokenize("<s>").tolist() == [0, *([0] if special else unknown), 1]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("text", ["<s>", "</s><s>", " ", "\u200b"])
def test_texts_of_special_tokens_or_of_nothing_do_not_fail(hugging_face_model, special, text):
  ends = {"add_bos": False, "add_eos": False}
  ends |= {"melodi_special_tokens_in_text": special}
  tokenize = _tokenizer(hugging_face_model, "huggingface", **ends)
  assert tokenize(text).dtype == np.int32


@pytest.mark.parametrize(
  "text, ends, problem",
  [
    ("<s>", False, "has 1 token, and 2 are needed"),
    ("</s><s>", False, "has special tokens only"),
    ("<s>", True, "has special tokens only"),
    ("the <s>", True, None),
  ],
)
def test_a_text_of_special_tokens_only_is_a_broken_document(
  hugging_face_model, text, ends, problem
):
  keys = {"add_bos": ends, "add_eos": ends, "melodi_special_tokens_in_text": True}
  documents: Any = [Document("a", text)]
  found = TokenReader(documents, _tokenizer(hugging_face_model, "huggingface", **keys))(0)
  if problem is None:
    assert not isinstance(found, BrokenDocument)
  else:
    assert isinstance(found, BrokenDocument) and problem in str(found)


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("tokenizer.model", "tiktoken"),
    ("tokenizer.model", "huggingface"),
    ("nowhere", "sentencepiece"),
    ("", "sentencepiece"),
    ("nowhere.tiktoken", "tiktoken"),
  ],
)
def test_what_is_no_tokenizer_of_its_kind_is_refused_in_a_sentence(sentencepiece_model, name, kind):
  path = sentencepiece_model.parent / name
  with pytest.raises(ValueError, match=str(path)) as error:
    _tokenizer(path, kind)("the cat")
  assert "\n" not in str(error.value)
  assert str(error.value).endswith(
    "; set tokenizer_path to a tokenizer, and tokenizer_type to its kind."
  )


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("tokenizer.llama2", "sentencepiece"),
    ("tokenizer_llama3.tiktoken", "tiktoken"),
    ("qwen3-tokenizer", "huggingface"),
  ],
)
def test_ids_become_their_text_without_special_tokens(name, kind):
  tokenizer = _tokenizer(ASSETS / name, kind)
  text = "The cat\n  sat: é 中 😀."
  ids = [*tokenizer.eos_ids, *tokenizer.encode(text), *tokenizer.eos_ids, 10**6, -1]
  assert tokenizer.decode(ids) == text
  assert [tokenizer.is_text(i) for i in (ids[0], ids[3], 10**6, -1)] == [False, True, False, False]
  assert tokenizer.decode([]) == ""
  assert "".join(map(tokenizer.shown, tokenizer.encode("The cat\n  sat"))).endswith(
    "The cat\n  sat"
  )
  end = {"sentencepiece": "</s>", "tiktoken": "<|end_of_text|>", "huggingface": "<|im_end|>"}[kind]
  assert [tokenizer.shown(i) for i in (tokenizer.eos_ids[0], 10**6)] == [end, "<1000000>"]


def test_what_ends_a_text(hugging_face_model, tiktoken_model, sentencepiece_model):
  assert _tokenizer(hugging_face_model, "huggingface").eos_ids == (1,)
  assert _tokenizer(tiktoken_model, "tiktoken").eos_ids == (257, 265)  # of a text, of a turn
  assert _tokenizer(sentencepiece_model, "sentencepiece").eos_ids == (2,)
  none = _tokenizer(hugging_face_model, "huggingface")
  none.library.eos_id = None
  assert none.eos_ids == ()


def test_special_tokens_are_read_beside_a_tokenizer_that_takes_them_for_text(hugging_face_model):
  tokenize = _tokenizer(hugging_face_model, "huggingface")
  assert tokenize.with_special_tokens.encode("the <s>") == [2, 0]
  assert tokenize.encode("the <s>") == [2, 4, 4, 4]


def test_sentencepiece_has_no_special_tokens_in_a_text(sentencepiece_model):
  tokenize = _tokenizer(sentencepiece_model, "sentencepiece")
  assert tokenize.with_special_tokens.encode("the </s>") == tokenize.encode("the </s>")


def test_sentencepiece_is_known_by_its_file(tmp_path, sentencepiece_model):
  def of(path, **changes):
    return _tokenizer(path, "sentencepiece", **changes).fingerprint()

  copy, other = tmp_path / "copy.model", tmp_path / "other.model"
  copy.write_bytes(sentencepiece_model.read_bytes())
  other.write_bytes((ASSETS / "tokenizer.llama2").read_bytes())
  one = of(sentencepiece_model)
  assert one == of(copy)
  assert len({one, of(other), of(copy, add_bos=False)}) == 3


def test_hugging_face_is_known_by_what_it_does(tmp_path):
  def of_words(folder, template=None, eos="</s>", **more):
    words = {"<s>": 0, "</s>": 1, "the": 2, "cat": 3, "?": 4} | more
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=core, bos_token="<s>", eos_token=eos, unk_token="?"
    )
    fast.chat_template = template
    fast.save_pretrained(tmp_path / folder)
    own = _tokenizer(tmp_path / folder, "huggingface")
    before = own.fingerprint()
    own("the cat")  # which changes nothing
    assert own.fingerprint() == before
    return before

  a = of_words("a")
  assert of_words("elsewhere") == of_words("chat", template="{{ messages }}") == a
  assert len({a, of_words("more", dog=5), of_words("eos", eos="<s>")}) == 3
