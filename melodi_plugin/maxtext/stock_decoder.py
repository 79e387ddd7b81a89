"""One row of MaxText's own decoder, with its own cache of keys and values."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from maxtext.configs import pyconfig

from melodi_plugin.config.settings import as_written
from melodi_plugin.config.systems import has_base_block
from melodi_plugin.core.array_typing import Array, Float
from melodi_plugin.maxtext.loading import new_model


def stock_keys(config: Any) -> list[str]:
  """Keys that make of a model with memory the stock decoder of the same sizes, without memory."""
  keys = [
    *("melodi_base_block=paper", "packing=false", "melodi_cache_tokens=0", "melodi_sink_tokens=0"),
    *("melodi_long_term_pairs=false", "melodi_long_term_windows_drawn="),
    *("melodi_distill_weight=0", "melodi_adapter="),
  ]
  if has_base_block(config):
    # Over the `melodi` of a file; MaxText lets it stand beside model_name only if told so.
    return [
      *keys,
      f"decoder_block={as_written(config.decoder_block)}",
      "override_model_config=true",
    ]
  # The paper's layers have a head of keys per head of queries, and two matrices in their network.
  heads = config.num_query_heads
  return [*keys, "decoder_block=llama2", f"base_num_kv_heads={heads}", "mlp_activations=['relu']"]


def fresh_params(config: Any) -> Any:
  """Parameters as the trainer makes them."""
  return nnx.state(new_model(config)[0], nnx.Param)


class StockDecoder:
  """Reads a prompt of one row at once, and then a token at a time, through MaxText's engine.

  Attributes:
    config: MaxText's, with room for the text.
    bytes: of the cache; it grows with the room, not with what was read.
  """

  def __init__(self, config: Any, prompt: Sequence[int], room: int, params: Any = None):
    """Reads `prompt`, and makes room for so many tokens more.

    Args:
      config: MaxText's.
      prompt: tokens.
      room: how many.
      params: the model's; without them, those of the checkpoint that the config names.

    Raises:
      ValueError: if the checkpoint cannot be read.
    """
    # Not at the head: it takes a second, and whoever imports this may not decode.
    from maxtext.inference.maxengine import maxengine

    changed = {
      "per_device_batch_size": 1 / jax.device_count(),
      "global_batch_size_to_train_on": 1,
      "micro_batch_size_to_train_on": 1,
      "max_prefill_predict_length": len(prompt),
      "max_target_length": len(prompt) + room,
    }
    self.config = pyconfig.HyperParameters(config._pydantic_config.model_copy(update=changed))
    self._engine = maxengine.MaxEngine(self.config)
    self._params = self._engine.load_params(params=params)
    state = self._engine.init_decode_state()
    self.bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state["cache"]))
    prefix, _ = self._engine.prefill(
      params=self._params,
      padded_tokens=jnp.asarray(prompt, jnp.int32),
      true_length=len(prompt),
    )
    self._left = room
    self._state = self._engine.insert(prefix, state, slot=0)
    self._logits = prefix["logits"]

  @property
  def logits(self) -> Float[Array, "1 V"]:
    """What it says of the next token, in float32."""
    return jnp.asarray(self._logits, jnp.float32).reshape(1, -1)

  def read(self, token: int) -> None:
    """Reads one token; raises ValueError if there is no room."""
    if not self._left:
      raise ValueError(
        f"this stock model has no room for more than {self.config.max_target_length} tokens; set "
        "max_target_length to more."
      )
    self._left -= 1
    self._state["tokens"] = jax.device_put(
      np.full_like(self._state["tokens"], token), self._state["tokens"].sharding
    )
    self._state, _ = self._engine.generate(self._params, self._state)
    self._logits = self._state["logits"]
