"""How Transformer-XL and the Memorizing Transformer read (SEMANTICS 4.1 to 4.3).

They remember tokens as they are: those before the window in the place of short-term memory and, in
a memory layer, all tokens of many windows in a queue.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads, Int, Rng
from melodi_plugin.core.attention import gate_heads, split_rng
from melodi_plugin.core.cell import KeyValues, Row, join
from melodi_plugin.systems.cached.retrieval import retrieve
from melodi_plugin.systems.paper.layer import (
  PaperLayer,
  attend_to_row,
  finish,
  normed_input,
  project,
  remembered_heads,
)


class Queries(NamedTuple):
  """Tokens that ask."""

  normed: Float[Array, "B t D"]
  heads: Heads
  places: Int[Array, "B t"] | None  # in the row, see `Row.places`


def read_tokens(
  params: PaperLayer,
  config: MelodiConfig,
  tokens: Float[Array, "B t D"],
  row: Row,
  rng: Rng | None,
  attend: Callable[[Queries, KeyValues, Any], Float[Array, "B t _ H"]],
) -> tuple[Float[Array, "B t D"], KeyValues]:
  """`Reader.read` of a layer; `attend` makes its heads of the tokens, their row and an rng."""
  input_rng, heads_rng, ffn_rng = split_rng(rng, 3)
  normed = normed_input(params, config, tokens, input_rng)
  query, key, value = project(params, config, normed)
  heads = attend(Queries(normed, query, row.places), row.join(key, value), heads_rng)
  above = finish(params, config, tokens, heads, ffn_rng)
  return above, KeyValues(key, value, row.valid)


def attend_locally(
  params: PaperLayer,
  config: MelodiConfig,
  spec: LayerSpec,
  queries: Queries,
  row: KeyValues,
  rng: Rng | None,
) -> Heads:
  """Attention to the max(C, W) tokens before a token, as far as cache and window hold them.

  Sinks are seen from everywhere.
  """
  return attend_to_row(
    params,
    config,
    queries.heads,
    queries.places,
    row,
    rng,
    reach=max(spec.cache_tokens, config.window_length),
    sinks=spec.sink_tokens,
    positions=spec.has_positions,
  )


@final
@dataclasses.dataclass(frozen=True)
class LocalReader:
  """A layer of Transformer-XL."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32
  mixes_inputs: ClassVar[bool] = True

  def remembered(
    self, params: PaperLayer, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Reader.remembered`."""
    return remembered_heads(params, self.config, tokens, rng)

  def read(
    self, params: PaperLayer, tokens: Float[Array, "B t D"], row: Row, long: None, rng: Rng | None
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """See `Reader.read`."""

    def attend(queries: Queries, seen: KeyValues, rng: Rng | None) -> Heads:
      return attend_locally(params, self.config, self.spec, queries, seen, rng)

    return read_tokens(params, self.config, tokens, row, rng, attend)


@final
@dataclasses.dataclass(frozen=True)
class DenseReader:
  """The Memorizing Transformer's own layer: one softmax over the queue and the window."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32
  mixes_inputs: ClassVar[bool] = True

  def remembered(
    self, params: PaperLayer, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Reader.remembered`."""
    return remembered_heads(params, self.config, tokens, rng)

  def read(
    self,
    params: PaperLayer,
    tokens: Float[Array, "B t D"],
    row: Row,
    long: KeyValues,
    rng: Rng | None,
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """See `Reader.read`: no positions, and the queue stands before the window in one row."""
    defects = self.config.reference_defects

    def attend(queries: Queries, seen: KeyValues, rng: Rng | None) -> Heads:
      places = None if queries.places is None else queries.places + long.key.shape[1]
      rng = None if defects else rng  # the official layer drops no weights
      return attend_to_row(
        params, self.config, queries.heads, places, join(long, seen), rng, positions=False
      )

    above, own = read_tokens(params, self.config, tokens, row, rng, attend)
    # The official code adds the layer's input once more (SEMANTICS 4.2).
    return (tokens + above if defects else above), own


@final
@dataclasses.dataclass(frozen=True)
class RetrievingReader:
  """The Memorizing Transformer with retrieval: k pairs of the queue, through a gate per head."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32
  mixes_inputs: ClassVar[bool] = True

  def remembered(
    self, params: PaperLayer, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Reader.remembered`."""
    return remembered_heads(params, self.config, tokens, rng)

  def read(
    self,
    params: PaperLayer,
    tokens: Float[Array, "B t D"],
    row: Row,
    long: KeyValues,
    rng: Rng | None,
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """See `Reader.read`: attention to cache and window, and to what is retrieved."""

    def attend(queries: Queries, seen: KeyValues, rng: Rng | None) -> Heads:
      assert params.gate is not None
      local = attend_locally(params, self.config, self.spec, queries, seen, rng)
      retrieved = retrieve(queries.heads, long, params.temperature, self.config.neighbors)
      return gate_heads(params.gate, local, retrieved)

    return read_tokens(params, self.config, tokens, row, rng, attend)
