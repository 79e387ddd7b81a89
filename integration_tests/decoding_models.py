"""Tiny models that write text, and what `evaluate` says of the same texts.

The parameters are drawn so that memory really matters: whoever loses it is far off.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
from flax import nnx

from integration_tests import running, stock_model
from integration_tests.pages import ROOT
from melodi_plugin.config.memory_keys import PAPER
from melodi_plugin.maxtext import loading
from melodi_plugin.maxtext.prepared import PreparedModel
from melodi_plugin.maxtext.steps import read_batch
from melodi_plugin.serving import programs
from melodi_plugin.serving.engine import Engine

EXAMPLE = ROOT / "examples" / "armt.yml"  # a system that a user registers
WINDOW, VOCABULARY = 8, 20  # so few tokens that the list of the most probable ones has them all
READ_TOKENS = 3 * WINDOW  # of one call: C
LONG = 6 * WINDOW + 5  # tokens of a document that fills the queue of 3 windows and more
NEAR = 1e-4  # of log probabilities in float32
SIZES = {
  "vocab_size": VOCABULARY,
  "max_target_length": 2 * WINDOW,  # evaluate reads segments of two windows
  "matmul_precision": "highest",
  "logits_via_embedding": False,  # MaxText rounds a tied head to bfloat16
  "dropout_rate": 0.0,
}
MEMORY = {
  "melodi_window_length": WINDOW,
  "melodi_summary_tokens": 3,
  "melodi_short_term_tokens": 4,
  "melodi_long_term_increment": 2,
  "melodi_long_term_windows": 3,
}
# Every system and every block of MaxText's; llama2 is as quick as can be, since it runs always.
KEYS: dict[str, dict[str, Any]] = {
  "melodi": running.MELODI | MEMORY,
  **{name: keys | {"melodi_window_length": WINDOW} for name, keys in running.SYSTEMS.items()},
  **{block: stock_model.keys(block) | MEMORY for block in stock_model.BLOCKS},
  "armt": {"melodi_window_length": WINDOW, "melodi_summary_tokens": 3, "armt_key_width": 8},
}
KEYS["llama2"] |= {"base_num_decoder_layers": 2, "melodi_long_term_layers": "0,1"}
KEYS["llama2 with a cache"] = KEYS["llama2"] | {
  "melodi_cache_tokens": WINDOW + 3,  # not a whole number of windows
  "melodi_sink_tokens": 2,
  "melodi_long_term_pairs": True,
}
KEYS |= {f"{name} unscanned": KEYS[name] | {"scan_layers": False} for name in ("melodi", "llama2")}


def make(name: str, **more: Any) -> "DecodingModel":
  """A model of `KEYS`; that of the example must be registered."""
  words = [str(EXAMPLE)] if name == "armt" else []
  return DecodingModel(*words, **(KEYS[name] | more))


class DecodingModel:
  """A model with random parameters, prepared for an engine, and its forward pass.

  Attributes:
    prepared: for engines.
    loaded: what it was made of.
  """

  def __init__(self, *words: str, **keys: Any):
    """On one device; words and keys as `running.initialize` takes them."""
    config = loading.with_rows(running.initialize(*words, **(keys | SIZES)), VOCABULARY)
    model = stock_model.build(config)
    randomize(model, scale=0.3 if config.melodi_base_block == PAPER else 0.1)
    self.loaded = loading.Loaded(*nnx.split(model, nnx.Param, nnx.BatchStat, ...))
    self.prepared = PreparedModel(config, self.loaded, model.mesh)
    self._read = jax.jit(functools.partial(read_batch, self.loaded.graphdef))

  def logprobs(self, tokens: np.ndarray, *, reset: bool = False) -> np.ndarray:
    """Of every token of the vocabulary, after each of `tokens` (N, V), as `evaluate` finds them.

    Row v of its batch asks for token v.  `reset` forgets everything at every segment.
    """
    length, found = self.prepared.config.max_target_length, []
    memory = jax.tree.map(np.zeros_like, self.loaded.memory)
    for first in range(0, len(tokens), length):
      piece = tokens[first : first + length]
      if reset:
        first, memory = 0, jax.tree.map(np.zeros_like, self.loaded.memory)
      padded = np.zeros(length, np.int32)
      padded[: len(piece)] = piece
      text = (np.arange(length) < len(piece)).astype(np.int32)
      rows = {
        "inputs": padded,
        "inputs_position": first + np.arange(length, dtype=np.int32),
        "inputs_segmentation": text,
      }
      batch = {name: np.tile(row, (VOCABULARY, 1)) for name, row in rows.items()}
      batch["targets"] = np.tile(np.arange(VOCABULARY, dtype=np.int32)[:, None], (1, length))
      with self.prepared.on_mesh():
        (nats, _), memory = self._read(self.loaded.params, memory, self.loaded.rest, batch)
      found.append(-np.asarray(nats).T[: len(piece)])
    return np.concatenate(found)

  def assert_remembers(self, tokens: np.ndarray) -> None:
    """That without memory it would be different; a window's first token may have none."""
    first = self.prepared.config.max_target_length
    lost = np.abs(self.logprobs(tokens) - self.logprobs(tokens, reset=True))
    assert not lost[:first].any()
    assert (lost[first:].max(axis=1) > 100 * NEAR).mean() > 0.8


def randomize(model: nnx.Module, scale: float, seed: int = 0) -> None:
  """Moves all parameters off their initial values; gates and offsets hide nothing.

  With too much noise rounding grows from window to window: a stock block takes less.
  """
  stock_model.randomize(model, seed, scale)
  for name, param in stock_model.params_of(model).items():
    if name.endswith(("/offset", "/gate")):
      param[...] = np.random.default_rng(seed).normal(size=param.shape).astype(param.dtype)


def document(seed: int, length: int = LONG) -> np.ndarray:
  """Random tokens."""
  return np.random.default_rng(seed).integers(0, VOCABULARY, length, np.int32)


@contextlib.contextmanager
def short_calls() -> Iterator[None]:
  """Engines that are made here read few tokens per call, and score them in two uneven pieces."""
  with (
    mock.patch.object(programs, "READ_TOKENS", READ_TOKENS),
    mock.patch.object(programs, "_HEAD_TOKENS", 2 * WINDOW),
    mock.patch.object(programs, "READ_ROWS", (3,)),
    mock.patch.object(programs, "CLOSE_ROWS", (3,)),
  ):
    yield


def whole(ids: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
  """Log probabilities in the order of the vocabulary, from lists of all tokens."""
  found = np.full(logprobs.shape, np.nan, np.float32)
  np.put_along_axis(found, ids, logprobs, axis=-1)
  return found


def force(engine: Engine, texts: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
  """Lets slots read texts token by token, in step; what the engine says after each (N, V).

  A slot whose text has ended idles.
  """
  said: dict[int, list[np.ndarray]] = {slot: [] for slot in texts}
  for place in range(max(map(len, texts.values()))):
    pending = {slot: int(text[place]) for slot, text in texts.items() if place < len(text)}
    for slot, drawn in engine.generate(pending).items():
      said[slot].append(whole(drawn.top_ids, drawn.top_logprobs))
  return {slot: np.array(own).reshape(-1, VOCABULARY) for slot, own in said.items()}


def score(engine: Engine, texts: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
  """The same by `score`, of texts of up to C tokens."""
  scores = engine.score(texts, texts)  # any targets: the lists have all tokens
  both = whole(scores.top_ids, scores.top_logprobs)
  return {slot: both[row, : len(text)] for row, (slot, text) in enumerate(texts.items())}


def bits(engine: Engine, slot: int) -> list[np.ndarray]:
  """The state of a slot, leaf by leaf."""
  return jax.tree.leaves(engine.extract(slot).state)


def assert_same_bits(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
  for own, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(own, other)


def read_in_pieces(engine: Engine, texts: Mapping[int, np.ndarray], seed: int) -> None:
  """Reads texts by calls of random sizes."""
  chance, left = np.random.default_rng(seed), dict(texts)
  while left := {slot: text for slot, text in left.items() if len(text)}:
    now = dict(list(left.items())[: engine.programs.read_rows[-1]])
    sizes = {slot: int(chance.integers(1, READ_TOKENS + 1)) for slot in now}
    engine.read({slot: text[: sizes[slot]] for slot, text in now.items()})
    left |= {slot: text[sizes[slot] :] for slot, text in now.items()}
