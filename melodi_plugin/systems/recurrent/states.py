"""The states of a Block-Recurrent layer: how they read tokens and are rewritten (SEMANTICS 4.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from melodi_plugin.config.layers import Recurrence
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.array_typing import Array, Float, Heads
from melodi_plugin.core.attention import attend, rms_norm, unit_norm, wide_dtype
from melodi_plugin.core.cell import KeyValues
from melodi_plugin.systems.paper.layer import to_heads

LSTM_START = 1.0  # added to the forget gate's logit, taken from the input gate's


class Gate(NamedTuple):
  """How much of a state stays: a bias per channel, or an LSTM's gates with kernels."""

  bias: Float[Array, "*Y D"] | None = None
  forget_kernel: Float[Array, "*Y c D"] | None = None
  forget_bias: Float[Array, "*Y D"] | None = None
  input_kernel: Float[Array, "*Y c D"] | None = None
  input_bias: Float[Array, "*Y D"] | None = None


class StateLayer(NamedTuple):
  """Parameters of the states' half of a recurrent layer; absent ones are None.

  `cross` are the queries to tokens.  `out` and `attention_gate` are absent in a 'single' cell, the
  feed-forward network in a 'skip' cell, its norm in both.
  """

  initial: Float[Array, "*Y R D"]
  positions: Float[Array, "*Y R D"]
  attention_norm: Float[Array, "*Y D"]
  query: Float[Array, "*Y D NH"]
  key: Float[Array, "*Y D NH"]
  value: Float[Array, "*Y D NH"]
  cross: Float[Array, "*Y D NH"]
  temperature: Float[Array, "*Y N"]
  cross_temperature: Float[Array, "*Y N"]
  out: Float[Array, "*Y 2NH D"] | None
  attention_gate: Gate | None
  ffn_norm: Float[Array, "*Y D"] | None
  ffn_in: Float[Array, "*Y i F"] | None
  ffn_out: Float[Array, "*Y F D"] | None
  ffn_gate: Gate | None


def _normed(params: StateLayer, states: Float[Array, "B R D"]) -> Float[Array, "B R D"]:
  normed = rms_norm(states, params.attention_norm)
  return normed + params.positions.astype(normed.dtype)


def state_heads(
  params: StateLayer, config: MelodiConfig, states: Float[Array, "B R D"]
) -> tuple[Heads, Heads]:
  """Keys and values of states, for tokens and for the states themselves."""
  normed = _normed(params, states)
  key = to_heads(config, normed, params.key, "key_proj")
  return unit_norm(key), to_heads(config, normed, params.value, "value_proj")


def next_states(
  params: StateLayer,
  config: MelodiConfig,
  states: Float[Array, "B R D"],
  own: KeyValues,
  tokens: KeyValues,
) -> Float[Array, "B R D"]:
  """The states after a window, from their own keys and values and those of the tokens."""
  normed = _normed(params, states)
  query, cross = (
    unit_norm(to_heads(config, normed, kernel, "query_proj"))
    for kernel in (params.query, params.cross)
  )
  read = jnp.concatenate(
    [
      attend(query, own.key, own.value, params.temperature, own.visible[:, None]),
      attend(cross, tokens.key, tokens.value, params.cross_temperature, tokens.visible[:, None]),
    ],
    axis=2,
  )
  read = read.reshape(*states.shape[:2], -1)
  if config.recurrence.cell == "single":
    return _feed_forward(params, config.recurrence, states, read, squash=True)
  assert params.out is not None
  states = _gated(
    params.attention_gate,
    states,
    jnp.einsum("BRc,cD->BRD", read, params.out.astype(read.dtype)),
    read,
  )
  if config.recurrence.cell == "skip":
    return states
  assert params.ffn_norm is not None
  return _feed_forward(
    params, config.recurrence, states, rms_norm(states, params.ffn_norm), squash=False
  )


def _feed_forward(
  params: StateLayer,
  recurrence: Recurrence,
  states: Float[Array, "B R D"],
  inputs: Float[Array, "B R i"],
  *,
  squash: bool,
) -> Float[Array, "B R D"]:
  """A feed-forward network without biases, through its gate."""
  assert params.ffn_in is not None and params.ffn_out is not None
  hidden = jax.nn.relu(jnp.einsum("BRi,iF->BRF", inputs, params.ffn_in.astype(inputs.dtype)))
  fed = jnp.einsum("BRF,FD->BRD", hidden, params.ffn_out.astype(inputs.dtype))
  return _gated(params.ffn_gate, states, jnp.tanh(fed) if squash else fed, hidden)


def _gated(
  gate: Gate | None,
  states: Float[Array, "B R D"],
  new: Float[Array, "B R D"],
  hidden: Float[Array, "B R c"],
) -> Float[Array, "B R D"]:
  """The old states and the new, each with its share; an LSTM's depend on the hidden activation."""
  assert gate is not None
  wide = wide_dtype(states)
  if gate.bias is not None:
    keep = jax.nn.sigmoid(gate.bias.astype(wide))
    add = 1 - keep
  else:
    keep = _lstm_share(hidden.astype(wide), gate.forget_kernel, gate.forget_bias, LSTM_START)
    add = _lstm_share(hidden.astype(wide), gate.input_kernel, gate.input_bias, -LSTM_START)
  return states * keep.astype(states.dtype) + new * add.astype(states.dtype)


def _lstm_share(
  hidden: Float[Array, "B R c"],
  kernel: Float[Array, "c D"] | None,
  bias: Float[Array, "D"] | None,
  start: float,
) -> Float[Array, "B R D"]:
  assert kernel is not None and bias is not None
  return jax.nn.sigmoid(jnp.einsum("BRc,cD->BRD", hidden, kernel) + bias + start)
