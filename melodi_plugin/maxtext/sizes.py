"""Sizes of a MaxText config, measured without building the model; any decoder of MaxText."""

import math
from typing import Any

from maxtext.utils import maxtext_utils

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import has_base_block, is_counted, is_melodi
from melodi_plugin.cost import sizes as cost
from melodi_plugin.cost.accounting import MemoryNumbers, parameters
from melodi_plugin.cost.stock import embedding_parameters
from melodi_plugin.maxtext.weights import described_shapes
from melodi_plugin.systems.table import stored_numbers


def sizes(config: Any) -> cost.Sizes:
  """Measures a MaxText config, loaded after `melodi_plugin.register()`."""
  if not is_counted(config):
    memory = MemoryNumbers(*stored_numbers(MelodiConfig.from_maxtext(config)))
    return cost.sizes(config, *_parameters(config), None, memory)
  tflops = maxtext_utils.calculate_tflops_training_per_device(config, log=False)[0]
  tokens_per_device = maxtext_utils.calculate_tokens_training_per_device(config)
  return cost.sizes(config, *_parameters(config), tflops * 1e12 / tokens_per_device)


def _parameters(config: Any) -> tuple[int, int]:
  """Numbers of the vocabulary's tables, and all numbers; closed form for the paper's layers."""
  if is_melodi(config) and not has_base_block(config) and is_counted(config):
    tables = embedding_parameters(config)
    return tables, tables + parameters(MelodiConfig.from_maxtext(config))
  counts = {name: math.prod(shape) for name, shape in described_shapes(config).items()}
  tables = (n for name, n in counts.items() if "token_embedder" in name or "logits_dense" in name)
  return sum(tables), sum(counts.values())
