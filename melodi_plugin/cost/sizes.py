"""What models cost: the numbers of one, and the table of several."""

from collections.abc import Mapping
from typing import NamedTuple

from melodi_plugin.output.tables import Table


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
  training_flops_per_token: float  # products of matrices, forward and backward
  training_flops_per_step: float
  tokens_per_step: int  # on the devices of this process


def table(rows: Mapping[str, Sizes]) -> Table:
  """The rows, in millions."""
  header = ["millions", "parameters", "without embedding", "memory: all", "short", "long"]
  header += ["stored MB: all", "short", "long"]
  header += ["decode state MB", "training GFLOP/token", "TFLOP/step", "tokens/step"]
  lines = []
  for name, row in rows.items():
    numbers = (
      row.parameters,
      row.parameters - row.embedding_parameters,
      row.memory_all,
      row.memory_short,
      row.memory_long,
      row.memory_bytes,
      row.memory_short_bytes,
      row.memory_long_bytes,
    )
    state = "-" if row.decode_state_bytes is None else f"{row.decode_state_bytes / 1e6:,.1f}"
    cells = [name, *(f"{number / 1e6:,.1f}" for number in numbers), state]
    cells.append(f"{row.training_flops_per_token / 1e9:,.2f}")
    cells.append(f"{row.training_flops_per_step / 1e12:,.1f}")
    lines.append([*cells, f"{row.tokens_per_step:,}"])
  return Table("sizes", header, lines)
