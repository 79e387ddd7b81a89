"""MaxText's tokenizer of a config, with checked ids; text to ids and back."""

import copy
import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from melodi_plugin.config.settings import as_written
from melodi_plugin.output.files import read_file


class Tokenizer:
  """Text to token ids, int32, and back.

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
    except (AssertionError, ValueError) as error:
      said = " ".join(str(error).split()).rstrip(".")
      raise ValueError(
        f"{said}; set tokenizer_path to a tokenizer, and tokenizer_type to its kind."
      ) from error

  @functools.cached_property
  def _size_and_special(self) -> tuple[int, frozenset[int]]:
    """The number of ids, and those of special tokens."""
    library = self.library
    if self.kind == "huggingface":
      added = library.tokenizer.added_tokens_decoder.items()
      return len(library.tokenizer), frozenset(i for i, token in added if token.special)
    if self.kind == "tiktoken":
      return library.n_words, frozenset(library.special_tokens.values())
    pieces = library._tokenizer_model
    size = pieces.vocab_size()
    return size, frozenset(i for i in range(size) if pieces.is_control(i))

  def fingerprint(self) -> str:
    """Digest of what it makes of a text, wherever its files lie."""
    if self.kind == "huggingface":
      library = self.library.tokenizer
      fast = json.loads(library.backend_tokenizer.to_str()) if library.is_fast else {}
      # How the last call has padded or cut its texts; these stand in the file too.
      known = {name: part for name, part in fast.items() if name not in ("padding", "truncation")}
      known |= {"vocabulary": library.get_vocab(), "special": library.special_tokens_map}
      content = json.dumps(known, sort_keys=True).encode()
    else:
      content = read_file(self.path)
    ends = f"{self.kind} add_bos={self.add_bos} add_eos={self.add_eos}"
    return hashlib.blake2b(ends.encode() + b"\0" + content, digest_size=16).hexdigest()

  @property
  def eos_ids(self) -> tuple[int, ...]:
    """What ends a text, or an answer; empty if the tokenizer has no such token."""
    if self.kind == "tiktoken":
      return tuple(sorted(self.library.stop_tokens))
    end = self.library.eos_id
    ends = end if isinstance(end, list) else [end]
    return tuple(i for i in ends if i is not None and i >= 0)

  def is_text(self, token_id: int) -> bool:
    """Whether a token has a text: a special one has none, and none that the tokenizer lacks.

    A model can have more ids than its tokenizer, for a vocabulary of a round size.
    """
    size, special = self._size_and_special
    return 0 <= token_id < size and token_id not in special

  def decode(self, ids: Iterable[int]) -> str:
    """The text of `ids`, without what is none; broken UTF-8 becomes U+FFFD."""
    known = [i for i in ids if self.is_text(i)]
    if self.kind != "huggingface":
      return self.library.decode(known)
    fast = getattr(self.library.tokenizer, "backend_tokenizer", None)
    if fast is not None:  # 20 times as fast
      return fast.decode(known, skip_special_tokens=False)
    return self.library.tokenizer.decode(known, clean_up_tokenization_spaces=False)

  def shown(self, token_id: int) -> str:
    """How one token is shown among others: its text, or the name of one that has none."""
    if token_id not in self._shown:
      self._shown[token_id] = self._show(token_id)
    return self._shown[token_id]

  @functools.cached_property
  def _shown(self) -> dict[int, str]:
    return {}

  def _show(self, token_id: int) -> str:
    size, special = self._size_and_special
    if self.is_text(token_id):  # the first word of a text would lose its space
      return self.decode([token_id, token_id])[len(self.decode([token_id])) :]
    if not 0 <= token_id < size and token_id not in special:
      return f"<{token_id}>"
    if self.kind == "huggingface":
      return self.library.tokenizer.convert_ids_to_tokens(token_id)
    if self.kind == "tiktoken":
      return next(name for name, i in self.library.special_tokens.items() if i == token_id)
    return self.library._tokenizer_model.id_to_piece(token_id)

  @functools.cached_property
  def with_special_tokens(self) -> "Tokenizer":
    """The same, where a special token that is spelled out in a text is that token, if it can be.

    It shares no library with this one, which other threads may use: a Hugging Face tokenizer keeps
    the switch between the two.
    """
    other = copy.copy(self)
    other.special_in_text = self.kind != "sentencepiece"
    return other

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
    return self.checked([*self._end("bos"), *self.encode(text), *self._end("eos")])

  def prompt(self, text: str) -> np.ndarray:
    """Ids of a text that is to go on: BOS if the config asks for it, and no EOS."""
    return self.checked([*self._end("bos"), *self.encode(text)])

  def checked(self, ids: list[int]) -> np.ndarray:
    """The ids, int32; raises ValueError if one does not fit vocab_size."""
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
