"""The next token of every row, drawn on the device.

Every row has settings and random numbers of its own: what it draws does not depend on the other
rows, on its slot, or on how many slots there are.  Letters of this room, beside those of
core/array_typing:

  N  slots, one row each (not attention heads)      E  tokens that a row may bias
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int16, UInt32

from melodi_plugin.core.array_typing import Array, Bool, Float, Int
from melodi_plugin.serving.sampling_settings import MAX_BIASES, SamplingSettings

_INFINITY = np.float32(np.inf).view(np.int32)
TOP = 20  # most probable tokens that are reported, as many as the protocols of servers ask for


class Sampling(NamedTuple):
  """How every row draws its next token; see `SamplingSettings` for what the settings mean."""

  temperature: Float[Array, "N"]
  temperature_last: Bool[Array, "N"]
  top_k: Int[Array, "N"]
  top_p: Float[Array, "N"]
  min_p: Float[Array, "N"]
  presence: Float[Array, "N"]
  frequency: Float[Array, "N"]
  bias_ids: Int[Array, "N E"]  # V where there is none
  bias: Float[Array, "N E"]
  seed: UInt32[Array, "N"]
  drawn: Int[Array, "N"]  # tokens generated so far
  counts: Int16[Array, "N V"]  # of the tokens generated so far


class Sample(NamedTuple):
  """What was drawn.  Log probabilities are the model's own, before any setting.

  Those of a row whose logits are not finite are not finite either; its token says nothing.
  """

  tokens: Int[Array, "N"]
  logprobs: Float[Array, "N"]  # of `tokens`
  top_ids: Int[Array, "N top"]  # the most probable tokens; of equals the lowest id first
  top_logprobs: Float[Array, "N top"]


def sampling_row(settings: SamplingSettings, vocabulary: int) -> Sampling:
  """One row (N = 1) that has generated nothing, on the host.

  ValueError if a bias is for a token that is not in the vocabulary.
  """
  ids = np.full((1, MAX_BIASES), vocabulary, np.int32)
  bias = np.zeros((1, MAX_BIASES), np.float32)
  unknown = [token for token in settings.logit_bias if token >= vocabulary]
  if unknown:
    raise ValueError(
      f"logit_bias names token {unknown[0]}, but the tokens of this model are 0 to "
      f"{vocabulary - 1}."
    )
  ids[0, : len(settings.logit_bias)] = list(settings.logit_bias)
  bias[0, : len(settings.logit_bias)] = list(settings.logit_bias.values())
  leaves: dict[str, Any] = dict(  # of NumPy, which the types of `Sampling` do not name
    temperature=np.array([settings.temperature], np.float32),
    temperature_last=np.array([settings.temperature_last]),
    top_k=np.array([settings.top_k], np.int32),
    top_p=np.array([settings.top_p], np.float32),
    min_p=np.array([settings.min_p], np.float32),
    presence=np.array([settings.presence_penalty], np.float32),
    frequency=np.array([settings.frequency_penalty], np.float32),
    bias_ids=ids,
    bias=bias,
    seed=np.array([settings.seed % 2**32], np.uint32),
    drawn=np.zeros(1, np.int32),
    counts=np.zeros((1, vocabulary), np.int16),
  )
  return Sampling(**leaves)


def idle_sampling(slots: int, vocabulary: int) -> Sampling:
  """Rows that nobody has asked for anything, on the host: the cheapest, which is greedy."""
  row = sampling_row(SamplingSettings(temperature=0, seed=0), vocabulary)
  return jax.tree.map(lambda leaf: np.repeat(leaf, slots, axis=0), row)


def insert_sampling(sampling: Sampling, slot: Int[Array, ""], row: Sampling) -> Sampling:
  """Puts one row of settings into a slot; the other rows stay as they are."""
  return jax.tree.map(lambda all_rows, own: all_rows.at[slot].set(own[0]), sampling, row)


def sample(logits: Float[Array, "N V"], sampling: Sampling) -> Sample:
  """Draws the next token of every row from its float32 logits.

  The barrier lets all log probabilities be numbers of one array: who compares that of the token
  with those of the list may use `==`.
  """
  tokens = _choose(logits, sampling)
  logprobs = jax.lax.optimization_barrier(jax.nn.log_softmax(logits))
  # Of the logits, not of their logarithms, where close ones may have become equal.
  top_ids = jax.lax.top_k(logits, min(TOP, logits.shape[1]))[1]
  return Sample(
    tokens,
    jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0],
    top_ids,
    jnp.take_along_axis(logprobs, top_ids, axis=1),
  )


def count_drawn(sampling: Sampling, tokens: Int[Array, "N"], active: Bool[Array, "N"]) -> Sampling:
  """The state after the active rows have generated these tokens; counts stop at their largest."""
  rows = jnp.arange(tokens.shape[0])
  more = active & (sampling.counts[rows, tokens] < jnp.iinfo(jnp.int16).max)
  return sampling._replace(
    counts=sampling.counts.at[rows, tokens].add(more.astype(jnp.int16)),
    drawn=sampling.drawn + active.astype(jnp.int32),
  )


def _choose(logits: Float[Array, "N V"], sampling: Sampling) -> Int[Array, "N"]:
  """Random numbers are made only if some row draws."""
  logits = _penalized(logits, sampling)
  greedy = jnp.argmax(logits, axis=1).astype(jnp.int32)
  draws = sampling.temperature > 0
  cuts = draws & ((sampling.top_k > 0) | (sampling.top_p < 1) | (sampling.min_p > 0))

  def draw() -> Int[Array, "N"]:
    # From the largest down, so that no temperature makes a number infinite.
    below = logits - jnp.max(logits, axis=1, keepdims=True)
    temperature = jnp.where(draws, sampling.temperature, 1.0)
    scaled = below / temperature[:, None]
    kept = jax.lax.cond(
      jnp.any(cuts),
      lambda: jnp.where(_kept(below, temperature, sampling), scaled, -jnp.inf),
      lambda: scaled,
    )
    drawn = jnp.argmax(kept + _noise(sampling, logits.shape[1]), axis=1)
    return jnp.where(draws, drawn.astype(jnp.int32), greedy)

  return jax.lax.cond(jnp.any(draws), draw, lambda: greedy)


def _penalized(logits: Float[Array, "N V"], sampling: Sampling) -> Float[Array, "N V"]:
  """Logits with what the row adds to some tokens and takes from those it has generated."""
  rows = jnp.arange(logits.shape[0])[:, None]
  logits = logits.at[rows, sampling.bias_ids].add(sampling.bias, mode="drop")
  counts = sampling.counts.astype(jnp.float32)
  frequency = sampling.frequency[:, None] * counts
  return logits - sampling.presence[:, None] * (counts > 0).astype(jnp.float32) - frequency


def _kept(
  below: Float[Array, "N V"], temperature: Float[Array, "N"], sampling: Sampling
) -> Bool[Array, "N V"]:
  """The tokens that top_k, top_p and min_p leave: at least one; `below` is 0 for the largest."""
  temperature = jnp.where(sampling.temperature_last, 1.0, temperature)[:, None]
  top_k, top_p = sampling.top_k, sampling.top_p
  first = _first(below, jnp.ones_like(below), top_k.astype(jnp.float32), top_k > 0)
  p = jax.nn.softmax(jnp.where(first, below / temperature, -jnp.inf), axis=1)
  nucleus = _first(below, p, jnp.maximum(top_p, jnp.finfo(jnp.float32).tiny), top_p < 1)
  return first & nucleus & (p >= sampling.min_p[:, None] * jnp.max(p, axis=1, keepdims=True))


def _first(
  below: Float[Array, "N V"],
  weight: Float[Array, "N V"],
  enough: Float[Array, "N"],
  wanted: Bool[Array, "N"],
) -> Bool[Array, "N V"]:
  """The most probable tokens, of equals those of lowest id first, that weigh enough together.

  A row that is not in `wanted` keeps all.  Bisects the 31 bits of the logits' distance from the
  largest, which rise with it: many times as fast as sorting a vocabulary.
  """

  def cut() -> Bool[Array, "N V"]:
    distance = jax.lax.bitcast_convert_type(jnp.abs(below), jnp.int32)

    def weighs(tokens: Bool[Array, "N V"]) -> Float[Array, "N"]:
      return jnp.sum(jnp.where(tokens, weight, 0.0), axis=1)

    def halve(_, between):
      low, high = between  # tokens up to `high` are enough, those up to `low` are not
      middle = low + (high - low) // 2
      reached = weighs(distance <= middle[:, None]) >= enough
      return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

    rows = jnp.zeros(below.shape[0], jnp.int32)
    last = jax.lax.fori_loop(0, 31, halve, (rows - 1, rows + _INFINITY))[1][:, None]
    equal = distance == last
    own = jnp.where(equal, weight, 0.0)
    before = weighs(distance < last)[:, None] + jnp.cumsum(own, axis=1) - own
    return (distance < last) | (equal & (before < enough[:, None])) | ~wanted[:, None]

  return jax.lax.cond(jnp.any(wanted), cut, lambda: jnp.ones_like(below, bool))


def _noise(sampling: Sampling, vocabulary: int) -> Float[Array, "N V"]:
  """Gumbel noise of every row: the largest sum of logit and noise is a draw of the softmax.

  Threefry whatever the process prefers: numbers of other generators depend on the batch.
  """

  def of_row(seed: UInt32[Array, ""], drawn: Int[Array, ""]) -> Float[Array, "V"]:
    rng = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), drawn)
    return jax.random.gumbel(rng, (vocabulary,), jnp.float32)

  return jax.vmap(of_row)(sampling.seed, sampling.drawn)
