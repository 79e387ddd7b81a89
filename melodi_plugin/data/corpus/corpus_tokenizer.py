"""Tokenizers as a corpus needs them: trained on its text, or opened only to count tokens."""

import hashlib
import io
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import sentencepiece

from melodi_plugin.data.files import is_remote
from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.output.bars import asking

KINDS = ("sentencepiece", "tiktoken", "huggingface")
# Sentencepiece leaves out lines of more than 4192 bytes; a character has at most 4.
_LINE_CHARACTERS = 1000


class CorpusTokenizer(NamedTuple):
  """Counts tokens, without begin and end of a document.

  Attributes:
    count: number of tokens of a text; called in several threads.
    description: `type`, `path`, of files `sha256`, of sentencepiece `vocab_size`; for the manifest.
    model: serialized sentencepiece model, if it is to be written beside the documents.
  """

  count: Callable[[str], int]
  description: dict[str, Any]
  model: bytes | None = None


def from_model(model: bytes) -> CorpusTokenizer:
  """The tokenizer of a serialized sentencepiece model, to be written beside the documents."""
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  description = {
    "type": "sentencepiece",
    "path": "tokenizer.model",
    "vocab_size": processor.vocab_size(),
    "sha256": hashlib.sha256(model).hexdigest(),
  }
  return CorpusTokenizer(lambda text: len(processor.encode(text)), description, model)


def train(
  texts: Iterable[str], *, vocab_size: int, character_coverage: float = 1.0
) -> CorpusTokenizer:
  """Trains sentencepiece BPE that gives back every text: spaces and newlines are kept.

  Args:
    texts: what it is trained on.
    vocab_size: number of pieces.
    character_coverage: part of the characters that have a piece; the rarest others are spelled in
      bytes, so that they do not fill a vocabulary.

  Raises:
    ValueError: if the texts are too few for the vocabulary.
  """
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_lines(texts),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      byte_fallback=True,
      character_coverage=character_coverage,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      user_defined_symbols=["\n"],
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"No tokenizer of {vocab_size} pieces can be trained on this text "
      f"({str(error).strip().splitlines()[-1]}); choose another size."
    ) from None
  return from_model(model.getvalue())


def load(path: str, kind: str) -> CorpusTokenizer:
  """Opens a tokenizer as MaxText does.

  One of sentencepiece may lie on a server; then it is written beside the documents, since MaxText
  reads local files.

  Args:
    path: a file; for `huggingface` a folder or the name of a model.
    kind: `sentencepiece`, `tiktoken` or `huggingface`, as MaxText's tokenizer_type.

  Raises:
    ValueError: if it cannot be opened.
  """
  if is_remote(path) and kind == "sentencepiece":
    return from_model(_fetch(path))
  description: dict[str, Any] = {"type": kind, "path": path}
  file = Path(path).expanduser()
  if file.is_file():
    description["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
  elif kind != "huggingface":
    raise ValueError(f"There is no tokenizer {path}; name a {kind} model file.")
  try:
    if kind == "sentencepiece":
      processor = sentencepiece.SentencePieceProcessor(model_file=str(file))
      description["vocab_size"] = processor.vocab_size()
      return CorpusTokenizer(lambda text: len(processor.encode(text)), description)
    return CorpusTokenizer(_count_as_trained(path, kind), description)
  except (OSError, RuntimeError, ValueError, AssertionError) as error:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise ValueError(f"{path} is no {kind} tokenizer ({reason}); name another.") from None


def _fetch(path: str) -> bytes:
  try:
    with asking(path):
      system, place = fsspec.core.url_to_fs(path)
      model = system.cat_file(place)
    sentencepiece.SentencePieceProcessor(model_proto=model)
  except Exception as error:  # The many stores have no common one.
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    raise ValueError(
      f"{path} cannot be read as a sentencepiece tokenizer ({reason}); copy it here by other means "
      "and name the copy."
    ) from None
  return model


def _count_as_trained(path: str, kind: str) -> Callable[[str], int]:
  tokenizer = Tokenizer(
    types.SimpleNamespace(
      tokenizer_path=path,
      tokenizer_type=kind,
      add_bos=False,
      add_eos=False,
      vocab_size=2**31,
      hf_access_token=None,
      melodi_special_tokens_in_text=False,
    )
  )
  tokenizer("a")  # Opens it, here and not in every thread.
  return lambda text: len(tokenizer(text))


def _lines(texts: Iterable[str]) -> Iterator[str]:
  for text in texts:
    for line in text.splitlines(keepends=True):
      for begin in range(0, len(line), _LINE_CHARACTERS):
        yield line[begin : begin + _LINE_CHARACTERS]
