"""MaxText's tokenizer of a config, with checked ids."""

import functools
from typing import Any

import numpy as np

from melodi_plugin.config.settings import as_written


def build_tokenizer(
  path: str, kind: str, add_bos: bool, add_eos: bool, access_token: str | None
) -> Any:
  """MaxText's tokenizer object; `kind` is a tokenizer_type."""
  from maxtext.input_pipeline import tokenizer  # slow to import, and not needed for records

  return tokenizer.build_tokenizer(path, kind, add_bos, add_eos, access_token)


class Tokenizer:
  """Text to token ids, int32.

  It is loaded where it is first used, so that it can be sent to worker processes.
  """

  def __init__(self, config: Any):
    self.path = config.tokenizer_path
    self.kind = as_written(config.tokenizer_type)
    self.add_bos = config.add_bos
    self.add_eos = config.add_eos
    self.vocab_size = config.vocab_size
    self._access_token = config.hf_access_token

  def __getstate__(self) -> dict[str, Any]:
    return {name: value for name, value in vars(self).items() if name != "_tokenizer"}

  @functools.cached_property
  def _tokenizer(self) -> Any:
    return build_tokenizer(self.path, self.kind, self.add_bos, self.add_eos, self._access_token)

  def __call__(self, text: str) -> np.ndarray:
    """Ids of `text`, between BOS and EOS if the config asks for them.

    Raises:
      ValueError: if an id does not fit vocab_size, or the tokenizer lacks a special token.
    """
    ids = np.asarray(self._tokenizer.encode(text), np.int64)
    if self.kind == "huggingface":
      ids = self._exact_ends(ids)
    if ids.size and ids.max() >= self.vocab_size:
      raise ValueError(
        f"Tokenizer {self.path} gives the id {ids.max()} but vocab_size is {self.vocab_size}; set "
        "vocab_size to the size of the tokenizer."
      )
    if ids.size and ids.min() < 0:
      raise ValueError(
        f"Tokenizer {self.path} gives the id {ids.min()} because it has no such special token; set "
        "add_bos=false or add_eos=false."
      )
    return ids.astype(np.int32)

  def _exact_ends(self, ids: np.ndarray) -> np.ndarray:
    """Sets BOS and EOS here: many Hugging Face tokenizers ignore add_bos_token or add_eos_token."""
    bos, eos = self._tokenizer.bos_id, self._tokenizer.eos_id
    for key, special in (("add_bos", bos), ("add_eos", eos)):
      if getattr(self, key) and special is None:
        raise ValueError(f"Tokenizer {self.path} has no such special token; set {key}=false.")
    if bos is not None and ids[:1] == bos:
      ids = ids[1:]
    if eos is not None and ids[-1:] == eos:
      ids = ids[:-1]
    front, back = ([bos] if self.add_bos else []), ([eos] if self.add_eos else [])
    return np.concatenate([np.asarray(front, np.int64), ids, np.asarray(back, np.int64)])
