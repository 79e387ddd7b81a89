"""What models cost: the numbers of one, and the table of several.

A config is read by attribute only, whether MaxText has read it or `maxtext.light`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.systems import has_base_block, is_counted, is_melodi
from melodi_plugin.cost.accounting import (
  MemoryNumbers,
  decode_state,
  memory_numbers,
  memory_parameters,
  paper_memory,
  parameters,
  row_bytes,
)
from melodi_plugin.cost.flops import TrainingFlops, training_flops
from melodi_plugin.cost.printed import perplexity_columns
from melodi_plugin.cost.stock import (
  embedding_parameters,
  is_ordinary,
  stock_attention,
  stock_parameters,
  stock_state,
  stock_weights,
)
from melodi_plugin.output.tables import Table, with_unit

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Sizes(NamedTuple):
  """Numbers of one model; of memory and decode state per batch row."""

  parameters: int  # all of them
  embedding_parameters: int  # tables of the vocabulary: the embedding, and an untied output head
  memory_short: int  # in the paper's accounting, like the next two
  memory_long: int
  memory_all: int
  memory_short_bytes: int  # as stored between training steps, like the next two
  memory_long_bytes: int
  memory_bytes: int
  decode_state: int | None  # numbers; of a stock model after max_target_length tokens
  decode_state_bytes: int | None
  slot_bytes: int | None  # of a row in an engine, on the device
  slots_per_gb: int | None
  training_flops_per_token: float | None  # products of matrices, forward and backward
  training_flops_per_step: float | None  # of one device, like the next
  tokens_per_step: int


def closed_form(config: Any) -> Sizes | None:
  """Sizes of our systems, of ordinary stock decoders and of memory around them; else None.

  Raises:
    ValueError: if sizes contradict each other.
  """
  if not is_counted(config):
    return None
  around_stock = has_base_block(config)
  if (around_stock or not is_melodi(config)) and not is_ordinary(config):
    return None
  if config.dtype not in _BYTES:
    return None
  if not is_melodi(config):
    total, flops = stock_parameters(config), stock_weights(config) + stock_attention(config)
  elif around_stock:
    total = stock_parameters(config) + memory_parameters(MelodiConfig.from_maxtext(config))
    stock = TrainingFlops(stock_weights(config), stock_attention(config))
    flops = sum(training_flops(config, stock))
  else:
    total = parameters(MelodiConfig.from_maxtext(config))
    flops = sum(training_flops(config, TrainingFlops(0.0, 0.0)))
  tables = embedding_parameters(config)
  return sizes(config, tables, tables + total, flops / config.max_target_length)


def sizes(
  config: Any,
  tables: int,
  total: int,
  flops_per_token: float | None,
  memory: MemoryNumbers | None = None,
) -> Sizes:
  """Sizes of a model of which is known: the vocabulary's tables, all parameters, operations.

  `memory` is what a row of a user's system stores; closed forms do not know it.
  """
  counted = stored = memory or MemoryNumbers(0, 0)
  if is_melodi(config):
    melodi, number = MelodiConfig.from_maxtext(config), _BYTES[config.melodi_memory_dtype]
    if memory is None:
      counted, stored = paper_memory(melodi), memory_numbers(melodi)
    stored = MemoryNumbers(*(number * count for count in stored))
  state, state_bytes, slot_bytes = _decode_state(config)
  rows = config.per_device_batch_size * config.gradient_accumulation_steps
  tokens = rows * config.max_target_length
  return Sizes(
    parameters=total,
    embedding_parameters=tables,
    memory_short=counted.short,
    memory_long=counted.long,
    memory_all=counted.all,
    memory_short_bytes=stored.short,
    memory_long_bytes=stored.long,
    memory_bytes=stored.all,
    decode_state=state,
    decode_state_bytes=state_bytes,
    slot_bytes=slot_bytes,
    slots_per_gb=int(1e9 // slot_bytes) if slot_bytes else None,
    training_flops_per_token=flops_per_token,
    training_flops_per_step=None if flops_per_token is None else flops_per_token * tokens,
    tokens_per_step=int(tokens),
  )


def _decode_state(config: Any) -> tuple[int | None, int | None, int | None]:
  """Numbers, bytes, and bytes on the device of a row that decodes.

  Of a stock model what `stock_state` counts.
  """
  cache_bytes = getattr(config.dtype, "itemsize", None) or _BYTES[config.dtype]
  if not is_counted(config):
    return None, None, None
  if is_melodi(config):
    melodi, number = MelodiConfig.from_maxtext(config), _BYTES[config.melodi_memory_dtype]
    state = decode_state(melodi)
    return state.all, state.size(number, cache_bytes)[1], row_bytes(melodi, number, cache_bytes)
  numbers = stock_state(config)
  if numbers is None:
    return None, None, None
  return numbers, numbers * cache_bytes, numbers * cache_bytes


# -- The table -------------------------------------------------------------------------------------

_ACROSS = 4  # configs that stand side by side; more of them stand below each other


class _Quantity(NamedTuple):
  name: str
  unit: str
  number: Callable[[Sizes], float | None]


_QUANTITIES = (
  _Quantity("parameters", "", lambda row: row.parameters),
  _Quantity("without embedding", "", lambda row: row.parameters - row.embedding_parameters),
  _Quantity("memory", "", lambda row: row.memory_all),
  _Quantity("memory, short", "", lambda row: row.memory_short),
  _Quantity("memory, long", "", lambda row: row.memory_long),
  _Quantity("stored", "B", lambda row: row.memory_bytes),
  _Quantity("stored, short", "B", lambda row: row.memory_short_bytes),
  _Quantity("stored, long", "B", lambda row: row.memory_long_bytes),
  _Quantity("decode state", "B", lambda row: row.decode_state_bytes),
  _Quantity("slot on the device", "B", lambda row: row.slot_bytes),
  _Quantity("slots per GB", "", lambda row: row.slots_per_gb),
  _Quantity("training FLOP/token", "", lambda row: row.training_flops_per_token),
  _Quantity("FLOP/step", "", lambda row: row.training_flops_per_step),
  _Quantity("tokens/step", "", lambda row: row.tokens_per_step),
)


def table(rows: Mapping[str, Sizes], printed: Sequence[Mapping[str, float]]) -> Table:
  """The rows, each number with a unit that fits it; few configs stand side by side.

  `printed` has for every row the perplexities that the paper prints of it.
  """
  more, perplexities = perplexity_columns(printed)
  cells = [
    [
      name,
      *("-" if (x := q.number(row)) is None else with_unit(x, q.unit) for q in _QUANTITIES),
      *own,
    ]
    for (name, row), own in zip(rows.items(), perplexities, strict=True)
  ]
  listed = Table("sizes", ["", *(quantity.name for quantity in _QUANTITIES), *more], cells)
  return listed.transposed() if len(rows) <= _ACROSS else listed
