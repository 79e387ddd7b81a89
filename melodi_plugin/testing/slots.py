"""An engine without a model: what it draws is a digest of all that its slot has read.

So an answer shows whether a slot was mixed up with another, however texts were dealt to slots.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from melodi_plugin.output.files import read_file, write_file
from melodi_plugin.serving.engine import NO_PREFIX, Drawn, Engine, Row, Slot, extend_prefix
from melodi_plugin.serving.programs import Scores
from melodi_plugin.serving.sampling_settings import SamplingSettings

TOP = 20
END = 258
SPECIAL = {256: "<bos>", 257: "<pad>", END: "<eos>"}


class FakeEngine(Engine):
  """The calls of `serving.engine.Engine`; a row's state is the digest of its tokens.

  Attributes:
    calls: names of the calls so far, with their slots.
    broken: token ids that, read by `generate`, make logits that are not finite.
    fails: raised by the next call of `read`, `score` or `generate`, once.
    seconds: that every such call takes.
  """

  def __init__(self, slots: int = 4, window: int = 4, read_tokens: int = 8, vocabulary: int = 259):
    self.window, self.vocabulary = window, vocabulary
    self.programs = SimpleNamespace(
      read_tokens=read_tokens, read_rows=(1, min(4, slots)), slots=slots
    )
    self.calls: list[tuple[str, tuple[int, ...]]] = []
    self.broken: set[int] = set()
    self.fails: Exception | None = None
    self.seconds = 0.0
    self._count = slots
    self.reset()

  @property
  def row_bytes(self) -> int:
    """As of an engine with a model."""
    return 1000

  def reset(self) -> None:
    """See `Engine.reset`."""
    self.slots = [Slot() for _ in range(self._count)]
    self._settings: list[Any] = [None] * self._count

  def read(self, texts: Mapping[int, np.ndarray]) -> None:
    """See `Engine.read`."""
    self._check(texts)
    self._call("read", texts)
    self._have_read(texts)

  def wait(self) -> None:
    """See `Engine.wait`."""

  def score(self, texts: Mapping[int, np.ndarray], targets: Mapping[int, np.ndarray]) -> Scores:
    """See `Engine.score`."""
    self._check(texts)
    self._call("score", texts)
    shape = (len(texts), self.programs.read_tokens)
    logprobs, tops = np.zeros(shape, np.float32), np.zeros((*shape, TOP), np.int32)
    top_logprobs = np.zeros((*shape, TOP), np.float32)
    for row, (slot, tokens) in enumerate(texts.items()):
      for place, token in enumerate(tokens):
        self._have_read({slot: np.array([token], np.int32)})
        best, own = self._next(slot, 0), int(targets[slot][place])
        logprobs[row, place] = logprob_of(best, own)
        tops[row, place], top_logprobs[row, place] = top_of(best)
    return Scores(logprobs, logprobs == logprob_of(0, 0), tops, top_logprobs)  # type: ignore

  def sample_with(self, slot: int, settings: SamplingSettings) -> None:
    """See `Engine.sample_with`."""
    unknown = [token for token in settings.logit_bias if token >= self.vocabulary]
    if unknown:
      raise ValueError(f"logit_bias names token {unknown[0]}, which is not in the vocabulary.")
    self._settings[slot] = [settings, 0]

  def generate(self, pending: Mapping[int, int]) -> dict[int, Drawn]:
    """See `Engine.generate`."""
    self._call("generate", pending)
    self.close(pending)
    drawn = {}
    for slot, token in pending.items():
      self._have_read({slot: np.array([token], np.int32)})
      settings, count = self._settings[slot]
      self._settings[slot][1] += 1
      seed = settings.seed + count if settings.temperature else 0
      best = self._next(slot, seed)
      drawn[slot] = Drawn(best, logprob_of(best, best), *top_of(best), token not in self.broken)
    return drawn

  def close(self, slots: Iterable[int]) -> None:
    """See `Engine.close`."""
    for slot in slots:
      if self.slots[slot].count == self.window:
        self.slots[slot].count = 0

  def extract(self, slot: int) -> Row:
    """See `Engine.extract`."""
    own = self.slots[slot]
    state: Any = SimpleNamespace(count=np.array([own.count]))
    return FakeRow(state, own.tokens, own.prefix)

  def insert(self, slot: int, row: Row) -> None:
    """See `Engine.insert`."""
    self.slots[slot] = Slot(row.tokens, int(row.state.count[0]), row.prefix, fresh=False)

  def copy(self, slot: int, to: int) -> None:
    """See `Engine.copy`."""
    self.slots[to] = dataclasses.replace(self.slots[slot])

  def _check(self, texts: Mapping[int, np.ndarray]) -> None:
    if len(texts) > self.programs.read_rows[-1]:
      raise ValueError(f"a call has no room for {len(texts)} slots.")
    if max(map(len, texts.values())) > self.programs.read_tokens:
      raise ValueError(f"a call reads up to {self.programs.read_tokens} tokens of a slot.")

  def _call(self, name: str, slots: Mapping[int, Any]) -> None:
    self.calls.append((name, tuple(slots)))
    if self.seconds:
      time.sleep(self.seconds)
    if self.fails is not None:
      error, self.fails = self.fails, None
      raise error

  def _next(self, slot: int, seed: int) -> int:
    return next_token(self.slots[slot].prefix, seed, self.vocabulary)


class FakeRow(Row):
  """A row whose state has no arrays."""

  @property
  def bytes(self) -> int:
    """What it takes to keep it."""
    return 1000


def save_row(path: str, row: Row, pending: Sequence[int], title: str) -> None:
  """As `Checkpoint.save_memory`."""
  said = [int(row.state.count[0]), row.tokens, row.prefix.hex(), list(pending), title]
  write_file(path, json.dumps(said).encode())


def load_row(path: str) -> tuple[FakeRow, tuple[int, ...], str]:
  """As `Checkpoint.load_memory`."""
  try:
    count, tokens, prefix, pending, title = json.loads(read_file(path))
  except ValueError:
    raise ValueError(f"{path} is not a memory file; give one.") from None
  state: Any = SimpleNamespace(count=np.array([count]))
  return FakeRow(state, tokens, bytes.fromhex(prefix)), tuple(pending), title


def next_token(prefix: bytes, seed: int, vocabulary: int) -> int:
  """What follows what was read: a letter, mostly, and at times the end."""
  digest = hashlib.blake2b(prefix + (seed % 2**64).to_bytes(8, "little"), digest_size=4).digest()
  number = int.from_bytes(digest, "little")
  return vocabulary - 1 if number % 64 == 0 else 97 + number % 26


def answer(
  ids: Sequence[int], count: int, seed: int = 0, vocabulary: int = 259, end: int = -1
) -> list[int]:
  """What `FakeEngine` writes after a prompt; greedy if `seed` is 0, else drawn with that seed."""
  written: list[int] = []
  while len(written) < count and (not written or written[-1] != end):
    prefix = extend_prefix(NO_PREFIX, [*ids, *written])
    drawn = seed + len(written) if seed else 0
    written.append(next_token(prefix, drawn, vocabulary))
  return written


def logprob_of(best: int, token: int) -> np.float32:
  """The best token is the most probable, the others less by their distance."""
  return np.float32(-0.5 - abs(best - token))


def top_of(best: int) -> tuple[np.ndarray, np.ndarray]:
  """The most probable tokens, and how probable they are."""
  ids = range(best, best - TOP, -1)
  return np.array(ids, np.int32), np.array([logprob_of(best, i) for i in ids], np.float32)


class ByteTokenizer:
  """UTF-8 bytes, and 256 <bos>, 257 <pad>, 258 <eos>; the calls of `data.tokenizer.Tokenizer`."""

  path, kind, vocab_size = "bytes", "bytes", 259
  add_bos = add_eos = special_in_text = False
  eos_ids = (END,)

  @property
  def with_special_tokens(self) -> "ByteTokenizer":
    """There are none in texts."""
    return self

  def is_text(self, token_id: int) -> bool:
    """See `Tokenizer.is_text`."""
    return 0 <= token_id < 256

  def decode(self, ids: Sequence[int]) -> str:
    """See `Tokenizer.decode`."""
    return bytes(i for i in ids if self.is_text(i)).decode(errors="replace")

  def shown(self, token_id: int) -> str:
    """See `Tokenizer.shown`."""
    return SPECIAL.get(token_id) or bytes([token_id]).decode(errors="replace")

  def encode(self, text: str) -> list[int]:
    """See `Tokenizer.encode`."""
    return list(text.encode())

  def prompt(self, text: str) -> np.ndarray:
    """See `Tokenizer.prompt`."""
    return self.checked(self.encode(text))

  def checked(self, ids: Sequence[int]) -> np.ndarray:
    """See `Tokenizer.checked`."""
    if len(ids) and max(ids) >= self.vocab_size:
      raise ValueError(f"the id {max(ids)} is not in the vocabulary.")
    return np.asarray(ids, np.int32)
