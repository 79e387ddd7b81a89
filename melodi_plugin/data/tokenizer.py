"""MaxText's tokenizer of a config, with checked ids."""

import functools
from typing import Any

import numpy as np

from melodi_plugin.config.settings import as_written


class Tokenizer:
  """Text to token ids, int32.

  It is loaded where it is first used, so that it can be sent to worker processes.

  Attributes:
    special_in_text: whether a special token that is spelled out in a text is that token.
  """

  def __init__(self, config: Any):
    self.path = config.tokenizer_path
    self.kind = as_written(config.tokenizer_type)
    self.add_bos = config.add_bos
    self.add_eos = config.add_eos
    self.vocab_size = config.vocab_size
    self.special_in_text = config.melodi_special_tokens_in_text
    self._access_token = config.hf_access_token
    if self.special_in_text and self.kind == "sentencepiece":
      raise ValueError(
        "melodi_special_tokens_in_text=true needs another tokenizer_type: sentencepiece reads all "
        "spelled-out special tokens as text; set it to false."
      )

  def __getstate__(self) -> dict[str, Any]:
    return {name: value for name, value in vars(self).items() if name != "library"}

  @functools.cached_property
  def library(self) -> Any:
    """MaxText's tokenizer object, which puts nothing before or after a text."""
    from maxtext.input_pipeline import tokenizer  # slow to import, and not needed for records

    try:
      return tokenizer.build_tokenizer(self.path, self.kind, False, False, self._access_token)
    except AssertionError as error:
      raise ValueError(f"{error}; set tokenizer_path and tokenizer_type to one another.") from error

  def encode(self, text: str) -> list[int]:
    """Ids of `text` alone."""
    if self.kind == "huggingface":
      return self.encode_hugging_face(text)["input_ids"]
    if self.special_in_text:
      return self.library.encode(text, allowed_special=self.library.special_tokens.keys())
    return self.library.encode(text)

  def encode_hugging_face(self, text: str, **more: Any) -> Any:
    """What a Hugging Face tokenizer knows of `text`; many do what they like about BOS and EOS."""
    return self.library.tokenizer(
      text,
      add_special_tokens=False,
      split_special_tokens=not self.special_in_text,
      verbose=False,  # it may be longer than one window
      **more,
    )

  def __call__(self, text: str) -> np.ndarray:
    """Ids of `text`, between BOS and EOS if the config asks for them.

    Raises:
      ValueError: if an id does not fit vocab_size, or the tokenizer lacks a special token.
    """
    ids = [*self._end("bos"), *self.encode(text), *self._end("eos")]
    if ids and max(ids) >= self.vocab_size:
      raise ValueError(
        f"Tokenizer {self.path} gives the id {max(ids)} but vocab_size is {self.vocab_size}; set "
        "vocab_size to the size of the tokenizer."
      )
    return np.asarray(ids, np.int32)

  def _end(self, name: str) -> list[int]:
    if not getattr(self, f"add_{name}"):
      return []
    special = getattr(self.library, f"{name}_id")
    if special is None or special < 0:
      raise ValueError(f"Tokenizer {self.path} has no such special token; set add_{name}=false.")
    return [special]
