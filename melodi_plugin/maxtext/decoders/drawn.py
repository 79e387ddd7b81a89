"""Random compression: how much of their queues the rows of a training step see."""

from typing import Any

import jax
import jax.numpy as jnp

from melodi_plugin.config.settings import parse_numbers
from melodi_plugin.core.array_typing import Array, Int

HIDDEN = "hidden_windows"  # where a decoder finds them


def draw_hidden(config: Any, tokens: Int[Array, "B T"]) -> Int[Array, "B"]:
  """The oldest windows of every row's queue that a step hides.

  Drawn by the seed of the run and the row's tokens: so a run that goes on draws what it would have
  drawn, and every host the same.
  """
  shown = parse_numbers(config.melodi_long_term_windows_drawn)
  # A longer one than the queue is all of it: evaluation may give the model a shorter queue.
  choices = jnp.maximum(config.melodi_long_term_windows - jnp.asarray(shown, jnp.int32), 0)
  place = jnp.arange(tokens.shape[1], dtype=jnp.uint32)
  # A sum of products with odd numbers, mod 2^32.
  words = (tokens.astype(jnp.uint32) * (2 * place + 1)).sum(1, dtype=jnp.uint32)
  seed = jax.random.key(config.data_shuffle_seed)
  keys = jax.vmap(lambda word: jax.random.fold_in(seed, word))(words)
  return jax.vmap(lambda key: jax.random.choice(key, choices))(keys)
