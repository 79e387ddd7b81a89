"""How a layer of the Block-Recurrent Transformer reads, and its states (SEMANTICS 4.4).

A recurrent layer has R states, which every window rewrites; a document begins with learned states.
With feedback, every layer reads the states of the recurrent one.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp

from melodi_plugin.config.layers import LayerSpec
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads, Rng, Summary
from melodi_plugin.core.attention import attend, split_rng, unit_norm
from melodi_plugin.core.cell import KeyValues, Row
from melodi_plugin.core.memory import Stored
from melodi_plugin.systems.cached.readers import Queries, attend_locally, read_tokens
from melodi_plugin.systems.paper.layer import PaperLayer, remembered_heads, to_heads
from melodi_plugin.systems.recurrent.states import StateLayer, next_states, state_heads


class RecurrentLayer(NamedTuple):
  """Parameters of a layer that reads states, and perhaps has them."""

  tokens: PaperLayer  # its output projection reads the heads of both attentions
  cross: Float[Array, "*Y D NH"]  # queries of tokens to states
  cross_temperature: Float[Array, "*Y N"]
  states: StateLayer | None


@final
@dataclasses.dataclass(frozen=True)
class StateReader:
  """Transformer-XL whose tokens also read states."""

  config: MelodiConfig
  spec: LayerSpec
  dtype: Any = jnp.float32
  mixes_inputs: ClassVar[bool] = True

  def remembered(
    self, params: RecurrentLayer, tokens: Float[Array, "B s D"], where: str, rng: Rng | None
  ) -> tuple[Heads, Heads]:
    """See `Reader.remembered`."""
    return remembered_heads(params.tokens, self.config, tokens, rng)

  def read(
    self,
    params: RecurrentLayer,
    tokens: Float[Array, "B t D"],
    row: Row,
    long: KeyValues,
    rng: Rng | None,
  ) -> tuple[Float[Array, "B t D"], KeyValues]:
    """See `Reader.read`: the heads of attention to cache and window, then those to the states."""
    config = self.config

    def attend_to_both(queries: Queries, seen: KeyValues, rng: Rng | None) -> Heads:
      own_rng, cross_rng = split_rng(rng, 2)
      own = attend_locally(params.tokens, config, self.spec, queries, seen, own_rng)
      cross = attend(
        unit_norm(to_heads(config, queries.normed, params.cross, "query_proj")),
        long.key,
        long.value,
        params.cross_temperature,
        long.visible[:, None],
        dropout_rng=cross_rng,
        dropout_rate=config.dropout_rate,
      )
      return jnp.concatenate([own, cross], axis=2)

    return read_tokens(params.tokens, config, tokens, row, rng, attend_to_both)


class SeenStates(NamedTuple):
  """The states as one window sees them."""

  states: Float[Array, "B R D"]
  heads: KeyValues  # of the states, for tokens and for themselves


@final
@dataclasses.dataclass(frozen=True)
class States:
  """R states: the rule by which windows rewrite them, see `rewritten.Rule`."""

  config: MelodiConfig
  spec: LayerSpec

  @property
  def tells(self) -> bool:
    """See `Rule.tells`."""
    return self.config.recurrence.feedback

  @property
  def stored(self) -> Stored:
    """See `Rule.stored`."""
    return Stored((self.spec.queue_tokens, self.config.long_width), (None, "activation_embed"))

  def initial(self, params: RecurrentLayer, batch: int) -> Float[Array, "B R D"]:
    """See `Rule.initial`: they are learned."""
    learned = _states(params).initial
    return jnp.broadcast_to(learned, (batch, *learned.shape))

  def seen(self, params: RecurrentLayer, state: Float[Array, "B R D"]) -> SeenStates:
    """See `Rule.seen`."""
    key, value = state_heads(_states(params), self.config, state)
    return SeenStates(state, KeyValues(key, value, jnp.ones(state.shape[:2], bool)))

  def reads(self, seen: SeenStates) -> KeyValues:
    """See `Rule.reads`."""
    return seen.heads

  def rewrite(
    self, params: RecurrentLayer, u: Summary, seen: SeenStates, row: KeyValues
  ) -> Float[Array, "B R D"]:
    """See `Rule.rewrite`."""
    return next_states(_states(params), self.config, seen.states, seen.heads, row)


def _states(params: RecurrentLayer) -> StateLayer:
  assert params.states is not None
  return params.states
