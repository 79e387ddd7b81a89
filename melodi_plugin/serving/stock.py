"""A stock decoder in the place of an engine, so that both can be compared side by side."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from melodi_plugin.data.tokenizer import Tokenizer
from melodi_plugin.maxtext.loading import check
from melodi_plugin.maxtext.stock_decoder import StockDecoder
from melodi_plugin.maxtext.weights import find_checkpoint
from melodi_plugin.serving.engine import Drawn
from melodi_plugin.serving.sampling import Sampling, count_drawn, sample, sampling_row
from melodi_plugin.serving.sampling_settings import SamplingSettings


class StockEngine:
  """One slot, 0; see `Engine` for its calls.

  The first token that is generated fixes how long the text may become: MaxText's cache has a place
  for every token.
  """

  def __init__(self, config: Any, path: str, room: int):
    self._config, self._room = check(config, path), room
    self._vocabulary = int(config.vocab_size)
    self._draw = jax.jit(_draw)
    self.begin(0)

  def begin(self, slot: int) -> None:
    """See `Engine.begin`."""
    self._decoder: StockDecoder | None = None
    self._prompt: list[int] = []

  @property
  def row_bytes(self) -> int:
    """Bytes of the cache; 0 before the first token is generated."""
    return self._decoder.bytes if self._decoder else 0

  def read_all(
    self, texts: Mapping[int, np.ndarray], on_tokens: Callable[[int], None] = lambda count: None
  ) -> None:
    """See `Engine.read_all`; the first text is read when its last token is known."""
    (ids,) = texts.values()
    if self._decoder is None:
      self._prompt += ids.tolist()
    else:
      for token in ids.tolist():
        self._decoder.read(token)
    on_tokens(len(ids))

  def sample_with(self, slot: int, settings: SamplingSettings) -> None:
    """See `Engine.sample_with`."""
    self._sampling: Sampling = jax.device_put(sampling_row(settings, self._vocabulary))

  def generate(self, pending: Mapping[int, int]) -> dict[int, Drawn]:
    """See `Engine.generate`."""
    ((slot, token),) = pending.items()
    if self._decoder is None:
      self._decoder = StockDecoder(self._config, [*self._prompt, token], self._room)
    else:
      self._decoder.read(token)
    drawn, self._sampling = jax.device_get(self._draw(self._decoder.logits, self._sampling))
    own = (drawn.top_ids[0], drawn.top_logprobs[0])
    return {slot: Drawn(int(drawn.tokens[0]), float(drawn.logprobs[0]), *own)}


def _draw(logits: jax.Array, sampling: Sampling) -> tuple[Any, Sampling]:
  drawn = sample(logits, sampling)
  return drawn, count_drawn(sampling, drawn.tokens, jnp.ones(1, bool))


class StockCheckpoint:
  """A stock model that reads and writes text, with the attributes of `Checkpoint`."""

  def __init__(self, config: Any):
    """Takes the one checkpoint of `load_parameters_path`; raises ValueError."""
    if config.melodi_memory_file or config.melodi_memory_out:
      raise ValueError(
        f"decoder_block={config.decoder_block.value} has no memory, so it can neither begin with "
        "melodi_memory_file nor write melodi_memory_out; leave them out."
      )
    path = find_checkpoint(config.load_parameters_path)
    self.tokenizer = Tokenizer(config)
    # An answer, or a conversation of as many tokens as a row of training has.
    room = max(config.melodi_max_tokens, config.max_target_length)
    self.engine = StockEngine(config, path, room)
