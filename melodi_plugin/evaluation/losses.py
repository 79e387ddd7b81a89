"""A file with the loss of every token of every document, for who compares token by token."""

import io
import zipfile
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from melodi_plugin.evaluation.reading import ScoredDocument
from melodi_plugin.output.files import read_file, write_file


class Losses(NamedTuple):
  """Of one document of N tokens."""

  tokens: np.ndarray  # int32 [N]
  nats: np.ndarray  # float32 [N-1], as in ScoredDocument


def write_losses(path: str, documents: Iterable[ScoredDocument]) -> None:
  """Writes them as NumPy's .npz: `ids`, `lengths`, and `tokens` and `nats` one after another."""
  documents = sorted(documents, key=lambda document: document.index)
  file = io.BytesIO()
  np.savez_compressed(
    file,
    ids=np.array([document.id for document in documents]),
    lengths=np.array([len(document.tokens) for document in documents]),
    tokens=np.concatenate([document.tokens for document in documents]).astype(np.int32),
    nats=np.concatenate([document.nats for document in documents]).astype(np.float32),
  )
  write_file(path, file.getvalue())


def read_losses(path: str) -> dict[str, Losses]:
  """By the id of the document; raises ValueError if it is no such file."""
  content = io.BytesIO(read_file(path))
  try:
    with np.load(content, allow_pickle=False) as found:
      ids, lengths = found["ids"].tolist(), found["lengths"]
      tokens = np.split(found["tokens"], np.cumsum(lengths)[:-1])
      nats = np.split(found["nats"], np.cumsum(lengths - 1)[:-1])
      own = zip(ids, tokens, nats, strict=True)
      return {name: Losses(of_tokens, of_nats) for name, of_tokens, of_nats in own}
  # Of a lone array NumPy gives no archive, hence TypeError.
  except (KeyError, OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error):
    raise ValueError(f"{path} is not a losses.npz of `melodi evaluate`; give one.") from None
