"""Slots that read and write text with one model.

No threads, no clocks and no queue: whoever calls decides what is read when.  What the host knows of
a slot is exact, because it decides every read.

A text in progress has one token that was not read yet, the last: `generate` reads it and draws the
next.  So nothing but `generate` needs the model's head, and a row that is kept needs no logits.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from melodi_plugin.core.decoding import OpenRows
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.serving.programs import Programs, Scores
from melodi_plugin.serving.sampling_settings import SamplingSettings

NO_PREFIX = b""


@dataclasses.dataclass
class Slot:
  """What the host knows of a row."""

  tokens: int = 0  # that it has read
  count: int = 0  # of them in the open window, 0 ... W
  prefix: bytes = NO_PREFIX  # see `extend_prefix`
  fresh: bool = True  # the next read begins a text


class Row(NamedTuple):
  """The state of a text in progress, on the host; goes on in any slot, any number of times."""

  state: OpenRows  # of one row
  tokens: int  # that it has read
  prefix: bytes  # see `extend_prefix`

  @property
  def bytes(self) -> int:
    """What it takes to keep it."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))


class Drawn(NamedTuple):
  """A token that was drawn; log probabilities are the model's own, before any setting."""

  token: int
  logprob: float
  top_ids: np.ndarray
  top_logprobs: np.ndarray
  finite: bool = True  # whether the logits are numbers; if not, the token says nothing


class Engine:
  """N slots.

  Attributes:
    slots: what is known of each.
    programs: the compiled functions.
  """

  def __init__(self, model: PreparedModel, slots: int, *, scores: bool = False):
    """Compiles everything; `scores` says whether `score` will be called."""
    self.model = model
    self.window = model.melodi.window_length
    self.programs = Programs(model, slots, scores=scores)
    self.reset()

  def reset(self) -> None:
    """All slots forget everything."""
    self._rows, self._sampling = self.programs.empty()
    self.slots = [Slot() for _ in range(self.programs.slots)]

  @property
  def row_bytes(self) -> int:
    """Bytes of one slot on the device."""
    leaves = jax.tree.leaves(self.programs.row)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

  def begin(self, slot: int) -> None:
    """The slot's next token begins a text."""
    self.slots[slot] = Slot()

  # -- Reading -------------------------------------------------------------------------------------

  def read(self, texts: Mapping[int, np.ndarray]) -> None:
    """One call: up to C tokens in each of up to R slots."""
    slots, tokens = list(texts), list(texts.values())
    self._rows = self.programs.read(self._rows, slots, tokens, self._fresh(slots))
    self._have_read(texts)

  def score(self, texts: Mapping[int, np.ndarray], targets: Mapping[int, np.ndarray]) -> Scores:
    """The same, and what the model said of each next token; on the host, rows as in `texts`."""
    slots, tokens = list(texts), list(texts.values())
    wanted = [targets[slot] for slot in slots]
    self._rows, scores = self.programs.score(self._rows, slots, tokens, self._fresh(slots), wanted)
    self._have_read(texts)
    return jax.device_get(scores)

  def wait(self) -> None:
    """Until the device has done all that it was told; its errors are raised here."""
    jax.block_until_ready(self._rows)

  def read_all(
    self, texts: Mapping[int, np.ndarray], on_tokens: Callable[[int], None] = lambda count: None
  ) -> None:
    """Texts of any length, in as many calls as they take.

    Args:
      texts: by slot; an empty one only begins.
      on_tokens: told after every call how many tokens it read.
    """
    left = dict(texts)
    while left:
      now = dict(list(left.items())[: self.programs.read_rows[-1]])
      pieces = {slot: text[: self.programs.read_tokens] for slot, text in now.items()}
      self.read(pieces)
      self.wait()
      on_tokens(sum(map(len, pieces.values())))
      rest = {slot: text[len(pieces[slot]) :] for slot, text in now.items()}
      others = {slot: text for slot, text in left.items() if slot not in now}
      left = others | {slot: text for slot, text in rest.items() if len(text)}

  def _fresh(self, slots: Sequence[int]) -> list[bool]:
    return [self.slots[slot].fresh for slot in slots]

  def _have_read(self, texts: Mapping[int, np.ndarray]) -> None:
    for slot, text in texts.items():
      own = self.slots[slot]
      if len(text):
        own.count = (own.count + len(text) - 1) % self.window + 1
      own.tokens, own.fresh = own.tokens + len(text), False
      own.prefix = extend_prefix(own.prefix, text)

  # -- Writing -------------------------------------------------------------------------------------

  def sample_with(self, slot: int, settings: SamplingSettings) -> None:
    """How the slot draws from now on."""
    self._sampling = self.programs.sample_with(self._sampling, slot, settings)

  def generate(self, pending: Mapping[int, int]) -> dict[int, Drawn]:
    """Reads the pending token of every slot named, and draws what follows it."""
    fresh = [slot for slot in pending if self.slots[slot].fresh]
    self.read_all({slot: np.zeros(0, np.int32) for slot in fresh})
    self.close(pending)
    count = self.programs.slots
    tokens, active = np.zeros(count, np.int32), np.zeros(count, bool)
    for slot, token in pending.items():
      tokens[slot], active[slot] = token, True
    self._rows, self._sampling, sample, finite = self.programs.step(
      self._rows, self._sampling, tokens, active
    )
    self._have_read({slot: np.array([token], np.int32) for slot, token in pending.items()})
    sample, finite = jax.device_get((sample, finite))
    return {
      slot: Drawn(
        int(sample.tokens[slot]),
        float(sample.logprobs[slot]),
        sample.top_ids[slot],
        sample.top_logprobs[slot],
        bool(finite[slot]),
      )
      for slot in pending
    }

  def close(self, slots: Iterable[int]) -> None:
    """Closes full windows, a bucket at a time; slots whose window is not full stay as they are."""
    full = [slot for slot in slots if self.slots[slot].count == self.window]
    most = self.programs.close_rows[-1]
    for first in range(0, len(full), most):
      self._rows = self.programs.close(self._rows, full[first : first + most])
    for slot in full:
      self.slots[slot].count = 0

  # -- Rows ----------------------------------------------------------------------------------------

  def extract(self, slot: int) -> Row:
    """The state of a slot, as it is now."""
    own = self.slots[slot]
    if own.fresh:
      self.read({slot: np.zeros(0, np.int32)})
    return Row(self.programs.extract(self._rows, slot), own.tokens, own.prefix)

  def insert(self, slot: int, row: Row) -> None:
    """The slot goes on with a row."""
    self._rows = self.programs.insert(self._rows, slot, row.state)
    self.slots[slot] = Slot(row.tokens, int(row.state.count[0]), row.prefix, fresh=False)

  def copy(self, slot: int, to: int) -> None:
    """Another slot goes on with the same state."""
    self._rows = self.programs.copy(self._rows, slot, to)
    self.slots[to] = dataclasses.replace(self.slots[slot])


def extend_prefix(prefix: bytes, tokens: Iterable[int] | np.ndarray) -> bytes:
  """A digest of all tokens that were read, made of that of those before: equal texts have equal
  ones, however they were cut.
  """
  for token in tokens:
    prefix = hashlib.blake2b(prefix + int(token).to_bytes(4, "little"), digest_size=16).digest()
  return prefix
