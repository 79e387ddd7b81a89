"""Which characters of a text every token stands for, as the tokenizer's library tells it."""

from typing import Any

import numpy as np

from melodi_plugin.data.tokenizer import Tokenizer


class Spans:
  """Spans of tokens, for the tokenizer of a config.

  A piece may begin with the space before a word, hold part of a character, or stand for characters
  that the tokenizer has normalised; so pieces are not put together again, but their places asked
  for.
  """

  def __init__(self, config: Any):
    self._tokenizer = Tokenizer(config)

  def __call__(self, text: str, tokens: np.ndarray) -> np.ndarray:
    """Begin and end of every token of `text`, in characters, int [N, 2].

    Args:
      text: a document.
      tokens: all its tokens, as they were read.

    Raises:
      ValueError: if the tokenizer makes other tokens of it.
    """
    ids, spans = encode_with_spans(self._tokenizer, text)
    add_bos, add_eos = self._tokenizer.add_bos, self._tokenizer.add_eos
    inner = tokens[int(add_bos) : len(tokens) - int(add_eos)]
    if not np.array_equal(ids, inner):
      raise ValueError("the tokenizer cannot tell which token stands for which characters.")
    ends = [[(0, 0)] * add_bos, [(len(text), len(text))] * add_eos]
    return np.concatenate([_array(ends[0]), spans, _array(ends[1])])


def encode_with_spans(tokenizer: Tokenizer, text: str) -> tuple[list[int], np.ndarray]:
  """Ids of `text` alone, as `Tokenizer.encode` gives them, and their spans, int64 [N, 2]."""
  of = {"sentencepiece": _sentencepiece, "tiktoken": _tiktoken, "huggingface": _huggingface}
  ids, spans = of[tokenizer.kind](tokenizer, text)
  return ids, _array(spans)


def _array(spans: list[tuple[int, int]]) -> np.ndarray:
  return np.reshape(np.asarray(spans, np.int64), (-1, 2))


def _sentencepiece(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
  pieces = tokenizer.library._tokenizer_model.encode(text, return_type="proto").pieces
  return [piece.id for piece in pieces], [(piece.begin, piece.end) for piece in pieces]


def _tiktoken(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
  ids = tokenizer.encode(text)
  starts = tokenizer.library.model.decode_with_offsets(ids)[1]
  return ids, list(zip(starts, [*starts[1:], len(text)], strict=True))


def _huggingface(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
  made = tokenizer.encode_hugging_face(text, return_offsets_mapping=True)
  return made["input_ids"], made["offset_mapping"]


def tokens_of(spans: np.ndarray, begin: int, end: int) -> np.ndarray:
  """Indices of the tokens that stand for any of the characters begin, ..., end - 1.

  All but the last of the tokens that share one character have no character of their own.
  """
  # Both columns ascend, so all that may share a character lie between two places.
  low = np.searchsorted(spans[:, 1], begin, side="left")
  high = np.searchsorted(spans[:, 0], end, side="left")
  first, last = spans[low:high, 0], spans[low:high, 1]
  empty = (first == last) & (first >= begin) & (first < end)
  return low + np.flatnonzero(empty | ((first < end) & (last > begin) & (first < last)))
