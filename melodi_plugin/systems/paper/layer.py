"""One layer of the paper over tokens and slots: projections, attention, feed-forward.

SEMANTICS 1.3, steps 1 to 4, for any number of tokens at any places of the row
[memory | context | summary].  The cells put these parts together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core import attention
from melodi_plugin.core.array_typing import Array, Float, Heads, Int, Rng
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.core.many_slots import How, are_many, attend_to_many
from melodi_plugin.core.token_mixer import TokenMixer


class PaperLayer(NamedTuple):
  """Parameters of one layer; heads are folded into one axis (N * H)."""

  attention_norm: Float[Array, "*Y D"]
  query: Float[Array, "*Y D NH"]
  key: Float[Array, "*Y D NH"]
  value: Float[Array, "*Y D NH"]
  out: Float[Array, "*Y NH D"]
  temperature: Float[Array, "*Y N"]
  position_bias: Float[Array, "*Y N buckets"] | None
  ffn_norm: Float[Array, "*Y D"]
  ffn_in: Float[Array, "*Y D F"]
  ffn_in_bias: Float[Array, "*Y F"] | None
  ffn_out: Float[Array, "*Y F D"]
  ffn_out_bias: Float[Array, "*Y D"] | None
  gate: Float[Array, "*Y N H"] | None = None
  long_temperature: Float[Array, "*Y N"] | None = None
  summary_mixer: TokenMixer | None = None
  short_mixer: TokenMixer | None = None
  long_mixer: TokenMixer | None = None


def normed_input(
  params: PaperLayer, config: MelodiConfig, tokens: Float[Array, "B t D"], rng: Rng | None
) -> Float[Array, "B t D"]:
  """What queries, keys and values are made of."""
  normed = attention.rms_norm(tokens, params.attention_norm)
  return attention.dropout(rng, config.dropout_rate, normed)


def to_heads(
  config: MelodiConfig, normed: Float[Array, "B t D"], kernel: Float[Array, "D NH"], name: str
) -> Heads:
  """One projection, split into heads; `name` is that of MaxText's remat policies."""
  heads_BtNH = jnp.einsum("BtD,Dn->Btn", normed, kernel.astype(normed.dtype))
  shape = (*normed.shape[:2], config.num_heads, config.head_dim)
  return checkpoint_name(heads_BtNH.reshape(shape), name)


def project(
  params: PaperLayer, config: MelodiConfig, normed: Float[Array, "B t D"]
) -> tuple[Heads, Heads, Heads]:
  """Queries, keys and values of normed tokens; queries and keys have length 1."""
  return (
    attention.unit_norm(to_heads(config, normed, params.query, "query_proj")),
    attention.unit_norm(to_heads(config, normed, params.key, "key_proj")),
    to_heads(config, normed, params.value, "value_proj"),
  )


def remembered_heads(
  params: PaperLayer, config: MelodiConfig, tokens: Float[Array, "B t D"], rng: Rng | None
) -> tuple[Heads, Heads]:
  """Keys and values of stored tokens; the compiler removes the unused queries."""
  return project(params, config, normed_input(params, config, tokens, rng))[1:]


def attend_to_row(
  params: PaperLayer,
  config: MelodiConfig,
  query: Heads,
  places: Int[Array, "B t"] | None,
  row: KeyValues,
  rng: Rng | None,
  *,
  reach: int | None = None,
  sinks: int = 0,
  positions: bool = True,
) -> Heads:
  """Self-attention of t tokens over their row [memory | context | summary].

  A token at place i sees places below i, but only the last `reach` of them if that is given,
  and the first `sinks` of the row besides.
  Without `places` the tokens stand at the end of the row; without `positions` distances do not
  matter.
  """
  num_slots, count = row.key.shape[1], query.shape[1]
  slots = jnp.arange(num_slots, dtype=jnp.int32)
  bias, table = None, params.position_bias if positions else None
  row_keys = row.key
  if places is None:
    places = slots[None, num_slots - count :]
    if table is not None:
      bias = attention.t5_bias_of_window(table, count, num_slots)
  elif table is not None:
    bias = attention.t5_bias(table, places, num_slots)
  if config.position == "rotary" and positions:
    query, row_keys = attention.rotate(query, places), attention.rotate(row_keys, slots[None])
  visible = row.visible[:, None] & (slots < places[..., None])
  if reach is not None:
    visible &= (slots >= places[..., None] - reach) | (slots < sinks)
  return attention.attend(
    query,
    row_keys,
    row.value,
    params.temperature,
    visible,
    bias,
    dropout_rng=rng,
    dropout_rate=config.dropout_rate,
  )


def attend_to_slots(
  params: PaperLayer, config: MelodiConfig, query: Heads, slots: KeyValues, rng: Rng | None
) -> Heads:
  """Cross-attention: all visible slots, whatever their order."""
  own = params.temperature if params.long_temperature is None else params.long_temperature
  if are_many(query.shape[1], slots.key.shape[1]):
    how = How(null=True, dropout_rate=config.dropout_rate)
    return attend_to_many(query, *slots[:2], jnp.abs(own), slots.visible, how, rng)
  return attention.attend(
    query,
    slots.key,
    slots.value,
    own,
    slots.visible[:, None],
    dropout_rng=rng,
    dropout_rate=config.dropout_rate,
  )


def finish(
  params: PaperLayer,
  config: MelodiConfig,
  tokens: Float[Array, "B t D"],
  heads: Float[Array, "B t _ H"],
  rng: Rng | None,
) -> Float[Array, "B t D"]:
  """Output projection and feed-forward network, with their residuals."""
  dtype = tokens.dtype
  folded = checkpoint_name(heads.reshape(*heads.shape[:2], params.out.shape[0]), "context")
  attended = jnp.einsum("Btn,nD->BtD", folded, params.out.astype(dtype))
  tokens = tokens + checkpoint_name(attended, "out_proj")

  hidden = attention.rms_norm(tokens, params.ffn_norm)
  hidden = jnp.einsum("BtD,DF->BtF", hidden, params.ffn_in.astype(dtype))
  hidden = checkpoint_name(_plus(hidden, params.ffn_in_bias), "mlpwi")
  fed = jnp.einsum("BtF,FD->BtD", jax.nn.relu(hidden), params.ffn_out.astype(dtype))
  fed = checkpoint_name(_plus(fed, params.ffn_out_bias), "mlpwo")
  return tokens + attention.dropout(rng, config.dropout_rate, fed)


def _plus(x: Float[Array, "*x"], bias: Float[Array, "f"] | None) -> Float[Array, "*x"]:
  return x if bias is None else x + bias.astype(x.dtype)
