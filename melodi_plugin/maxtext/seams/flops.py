"""Floating-point operations from which MaxText reports TFLOP/s."""

import functools
import math

from melodi_plugin.config.systems import has_base_block, is_counted, is_melodi
from melodi_plugin.cost.flops import TrainingFlops, training_flops
from melodi_plugin.maxtext.seams.seam import Undo, parameters, replace


def probe_flops() -> str | None:
  from maxtext.common import metric_logger
  from maxtext.utils import maxtext_utils

  if metric_logger.maxtext_utils is not maxtext_utils:
    return "is not what metric_logger uses"
  return parameters(maxtext_utils.calculate_tflops_training_per_device, "config", "log")


def apply_flops() -> Undo:
  """MaxText counts attention to the whole segment, and knows no summary tokens and no memory."""
  from maxtext.utils import maxtext_utils

  original = maxtext_utils.calculate_tflops_training_per_device

  @functools.wraps(original)
  def calculate_tflops_training_per_device(config, log=True):
    if not is_melodi(config):
      return original(config, log)
    if not is_counted(config):
      if log:
        print(f"Operations of decoder_block: {config.decoder_block.value} are not counted.")
      return math.nan, math.nan, math.nan
    rows = config.per_device_batch_size * config.gradient_accumulation_steps
    stock = TrainingFlops(0.0, 0.0)
    if has_base_block(config):
      stock = TrainingFlops(*(part * 1e12 / rows for part in original(config, log=False)[1:]))
    flops = training_flops(config, stock)
    weights, attention = (rows * part / 1e12 for part in flops)
    total = weights + attention
    if log:
      share = 100 * weights / total
      print(
        f"Per train step:\n Total TFLOPs: {total:.2f} \n split as {share:.2f}% learnable weight "
        f"flops and {100 - share:.2f}% attention flops"
      )
    return total, weights, attention

  return replace(
    maxtext_utils, "calculate_tflops_training_per_device", calculate_tflops_training_per_device
  )
