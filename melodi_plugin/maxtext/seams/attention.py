"""What MaxText's own layers attend to, and what of a row's documents they keep apart."""

import functools
import inspect

from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace


def probe_mask() -> str | None:
  from maxtext.layers import attention_op

  generate = attention_op.AttentionOp.generate_attention_mask
  if "segment_positions" not in inspect.signature(generate).parameters:
    return "takes no segment_positions"
  return parameters(generate, "self", "query", "key", "decoder_segment_ids", "model_mode")


def apply_mask() -> Undo:
  """Sinks and a sliding window, for any block that attends through MaxText's attention core."""
  from maxtext.common.common_types import MODEL_MODE_TRAIN
  from maxtext.layers import attention_op

  original = attention_op.AttentionOp.generate_attention_mask

  @functools.wraps(original)
  def generate_attention_mask(
    self, query, key, decoder_segment_ids, model_mode, *args, segment_positions=None, **more
  ):
    mask = original(
      self,
      query,
      key,
      decoder_segment_ids,
      model_mode,
      *args,
      segment_positions=segment_positions,
      **more,
    )
    window = getattr(self.config, "melodi_sliding_window", 0)
    if not window:
      return mask
    if model_mode != MODEL_MODE_TRAIN:
      raise ValueError(
        f"melodi_sliding_window={window} is for training and evaluation, and MaxText's caches of "
        "keys and values know nothing of it; leave it out."
      )
    import jax.numpy as jnp

    from melodi_plugin.maxtext.decoders.apart import sees

    assert mask is not None and segment_positions is not None  # of dot_product in training
    seen = sees(segment_positions, window, self.config.melodi_sink_tokens)
    return jnp.where(seen[:, None, None], mask, attention_op.DEFAULT_MASK_VALUE)

  return replace(attention_op.AttentionOp, "generate_attention_mask", generate_attention_mask)


def probe_delta_net() -> str | None:
  from maxtext.models import qwen3

  call = qwen3.Qwen3NextGatedDeltaNet.__call__
  return parameters(call, "self", "hidden_states", "model_mode", "kv_cache", "decoder_segment_ids")


def apply_delta_net() -> Undo:
  """MaxText lets the state of one document of a row run on into the next."""
  from maxtext.common.common_types import MODEL_MODE_TRAIN
  from maxtext.models import qwen3

  original = qwen3.Qwen3NextGatedDeltaNet.__call__

  @functools.wraps(original)
  def call(self, hidden_states, model_mode=MODEL_MODE_TRAIN, *args, **more):
    ids = more.get("decoder_segment_ids")
    rows = getattr(self.config, "melodi_documents_in_rows", False)
    if not rows or model_mode != MODEL_MODE_TRAIN or ids is None:
      return original(self, hidden_states, model_mode, *args, **more)
    from melodi_plugin.maxtext.decoders.apart import documents_apart

    with documents_apart(self, ids):
      return original(self, hidden_states, model_mode, *args, **more)

  return replace(qwen3.Qwen3NextGatedDeltaNet, "__call__", call)
