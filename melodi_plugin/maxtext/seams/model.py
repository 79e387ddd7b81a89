"""Our decoder in MaxText's model, and its evaluation during training."""

import functools

from melodi_plugin.config.systems import has_base_block, is_melodi
from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace


def probe_decoder() -> str | None:
  from maxtext.layers import nnx_decoders
  from maxtext.models import models

  if models.NNXDecoder is not nnx_decoders.NNXDecoder:
    return "is not layers.nnx_decoders.NNXDecoder"
  decoder = nnx_decoders.NNXDecoder
  return (
    parameters(decoder.__init__, "self", "config", "mesh", "quant", "model_mode", "rngs")
    or parameters(decoder._init_decoder_layers, "self", "decoder_block_classes", "rngs", "mesh")
    or parameters(decoder.get_norm_layer, "self", "num_features", "rngs")
    or parameters(decoder.get_remat_policy, "self")
    or parameters(
      decoder._apply_embedding,
      "self",
      "shared_embedding",
      "decoder_input_tokens",
      "decoder_positions",
      "deterministic",
      "model_mode",
    )
    or parameters(
      decoder.apply_output_head, "self", "shared_embedding", "y", "deterministic", "model_mode"
    )
  )


def apply_decoder() -> Undo:
  from maxtext.models import models

  original = models.NNXDecoder

  def make_decoder(config, *args, **kwargs):
    if not is_melodi(config):
      return original(config, *args, **kwargs)
    if has_base_block(config):
      from melodi_plugin.maxtext.decoders.stock import StockDecoder as Decoder
    else:
      from melodi_plugin.maxtext.decoders.paper import PaperDecoder as Decoder
    return Decoder(config, *args, **kwargs)

  return replace(models, "NNXDecoder", make_decoder)


def probe_eval_step() -> str | None:
  from maxtext.utils import train_utils

  return parameters(
    train_utils.jit_eval_step,
    "config",
    "model",
    "state_mesh_shardings",
    "data_sharding",
    "eval_step",
  )


def apply_eval_step() -> Undo:
  """Gives evaluation a memory of its own; MaxText would use that of the training rows."""
  from maxtext.utils import train_utils

  original = train_utils.jit_eval_step

  @functools.wraps(original)
  def jit_eval_step(config, model, state_mesh_shardings, data_sharding, eval_step):
    if not is_melodi(config):
      return original(config, model, state_mesh_shardings, data_sharding, eval_step)
    from melodi_plugin.maxtext.eval_step import EvalStep

    return EvalStep(config, model, state_mesh_shardings, data_sharding, eval_step)

  return replace(train_utils, "jit_eval_step", jit_eval_step)
