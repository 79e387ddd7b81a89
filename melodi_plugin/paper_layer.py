"""One layer of the paper over tokens and slots: projections, attention, feed-forward.

SEMANTICS 1.3, steps 1 to 4, for any number of tokens at any places of the row
[memory | context | summary].  `paper_cell` puts these parts into the verbs of a cell.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from melodi_plugin import attention
from melodi_plugin.array_typing import Array, Float, Heads, Int, Key
from melodi_plugin.cell import Slots
from melodi_plugin.config import MelodiConfig
from melodi_plugin.token_mixer import TokenMixer


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
  ffn_in_bias: Float[Array, "*Y F"]
  ffn_out: Float[Array, "*Y F D"]
  ffn_out_bias: Float[Array, "*Y D"]
  gate: Float[Array, "*Y N H"] | None
  summary_mixer: TokenMixer | None
  short_mixer: TokenMixer | None
  long_mixer: TokenMixer | None


def project(
  params: PaperLayer, config: MelodiConfig, tokens: Float[Array, "B t D"], key: Key | None
) -> tuple[Heads, Heads, Heads]:
  """Queries, keys and values of tokens; queries and keys have length 1."""
  heads = (*tokens.shape[:2], config.num_heads, config.head_dim)
  normed = attention.rms_norm(tokens, params.attention_norm)
  normed = attention.dropout(key, config.dropout_rate, normed)

  def projected(kernel: Float[Array, "D NH"], name: str) -> Heads:
    heads_BtNH = jnp.einsum("BtD,Dn->Btn", normed, kernel.astype(normed.dtype))
    return checkpoint_name(heads_BtNH.reshape(heads), name)

  return (
    attention.unit_norm(projected(params.query, "query_proj")),
    attention.unit_norm(projected(params.key, "key_proj")),
    projected(params.value, "value_proj"),
  )


def transform(
  params: PaperLayer,
  config: MelodiConfig,
  tokens: Float[Array, "B t D"],
  query: Heads,
  places: Int[Array, "B t"] | None,
  slots: Slots,
  long: Slots,
  key: Key | None,
) -> Float[Array, "B t D"]:
  """Attention, gate, output projection and feed-forward network of t tokens.

  `slots` is the row [memory | context | summary]; a token at place i sees places below i.  Without
  `places` the tokens stand at the end of the row.
  """
  own_key, cross_key, ffn_key = attention.split_key(key, 3)
  rate, dtype = config.dropout_rate, tokens.dtype
  key_places = jnp.arange(slots.key.shape[1], dtype=jnp.int32)
  bias, table, num_slots = None, params.position_bias, slots.key.shape[1]
  if places is None:
    places = key_places[None, num_slots - tokens.shape[1] :]
    if table is not None:
      bias = attention.t5_bias_of_window(table, tokens.shape[1], num_slots)
  elif table is not None:
    bias = attention.t5_bias(table, places, num_slots)
  visible = slots.visible[:, None] & (key_places < places[..., None])
  heads = attention.attend(
    query,
    slots.key,
    slots.value,
    params.temperature,
    visible,
    bias,
    dropout_key=own_key,
    dropout_rate=rate,
  )
  if params.gate is not None:
    cross = attention.attend(
      query,
      long.key,
      long.value,
      params.temperature,
      long.visible[:, None],
      dropout_key=cross_key,
      dropout_rate=rate,
    )
    heads = attention.gate_heads(params.gate, heads, cross)
  heads = checkpoint_name(heads.reshape(*heads.shape[:2], params.out.shape[0]), "context")
  attended = jnp.einsum("Btn,nD->BtD", heads, params.out.astype(dtype))
  tokens = tokens + checkpoint_name(attended, "out_proj")

  hidden = attention.rms_norm(tokens, params.ffn_norm)
  hidden = jnp.einsum("BtD,DF->BtF", hidden, params.ffn_in.astype(dtype))
  hidden = checkpoint_name(hidden + params.ffn_in_bias.astype(dtype), "mlpwi")
  fed = jnp.einsum("BtF,FD->BtD", jax.nn.relu(hidden), params.ffn_out.astype(dtype))
  fed = checkpoint_name(fed + params.ffn_out_bias.astype(dtype), "mlpwo")
  return tokens + attention.dropout(ffn_key, rate, fed)
