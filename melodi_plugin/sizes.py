"""`python -m melodi_plugin.sizes cfg.yml [more.yml ...] [key=value ...] [--json]`.

What models cost, without building them: parameters, memory, decode state, training FLOPs.  Works
for MaxText's own decoders too.
"""

import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from melodi_plugin.accounting import (
  MemoryNumbers,
  decode_state,
  memory_numbers,
  paper_memory,
  parameters,
)
from melodi_plugin.config import MelodiConfig
from melodi_plugin.host import has_base_block, is_melodi
from melodi_plugin.launch import load_config, stop
from melodi_plugin.tables import Table

# Reading the config must neither wait for other hosts nor look for documents.
_ALONE = (
  "skip_jax_distributed_system=true",
  "dataset_type=synthetic",
  "enable_checkpointing=false",
)


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


def sizes(config: Any) -> Sizes:
  """Measures a MaxText config, loaded after `melodi_plugin.register()`."""
  from maxtext.utils import maxtext_utils

  embedding, total = _parameters(config)
  counted = stored = MemoryNumbers(0, 0)
  if is_melodi(config):
    melodi, number = MelodiConfig.from_maxtext(config), _itemsize(config.melodi_memory_dtype)
    counted = paper_memory(melodi)
    stored = MemoryNumbers(*(number * count for count in memory_numbers(melodi)))
  state, state_bytes = _decode_state(config)
  tflops = maxtext_utils.calculate_tflops_training_per_device(config, log=False)[0]
  tokens_per_device = maxtext_utils.calculate_tokens_training_per_device(config)
  per_token = tflops * 1e12 / tokens_per_device
  tokens = config.global_batch_size_to_train_on * config.max_target_length
  return Sizes(
    parameters=total,
    embedding_parameters=embedding,
    memory_short=counted.short,
    memory_long=counted.long,
    memory_all=counted.all,
    memory_short_bytes=stored.short,
    memory_long_bytes=stored.long,
    memory_bytes=stored.all,
    decode_state=state,
    decode_state_bytes=state_bytes,
    training_flops_per_token=per_token,
    training_flops_per_step=per_token * tokens,
    tokens_per_step=int(tokens),
  )


def _itemsize(dtype: Any) -> int:
  import jax.numpy as jnp

  return jnp.dtype(dtype).itemsize


def _parameters(config: Any) -> tuple[int, int]:
  """Numbers of the vocabulary's tables, and all numbers; closed form for the paper's layers."""
  if is_melodi(config) and not has_base_block(config):
    table = config.vocab_size * config.emb_dim
    tables = table if config.logits_via_embedding else 2 * table
    return tables, tables + parameters(MelodiConfig.from_maxtext(config))
  from melodi_plugin.weights import described_shapes

  counts = {name: math.prod(shape) for name, shape in described_shapes(config).items()}
  tables = (n for name, n in counts.items() if "token_embedder" in name or "logits_dense" in name)
  return sum(tables), sum(counts.values())


def _decode_state(config: Any) -> tuple[int | None, int | None]:
  """Numbers and bytes; of a stock model its keys and values, if it keeps those of all tokens."""
  cache_bytes = _itemsize(config.dtype)
  if is_melodi(config):
    state = decode_state(MelodiConfig.from_maxtext(config))
    return state.all, state.size(_itemsize(config.melodi_memory_dtype), cache_bytes)[1]
  if getattr(config.attention_type, "value", config.attention_type) != "global":
    return None, None
  token = 2 * config.num_decoder_layers * config.num_kv_heads * config.head_dim
  return token * config.max_target_length, token * config.max_target_length * cache_bytes


# -- The command -----------------------------------------------------------------------------------


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


def measure(paths: Sequence[str], keys: Sequence[str]) -> dict[str, Sizes]:
  """Sizes of every config, by the stem of its file; a bad one ends the program with status 2."""
  rows: dict[str, Sizes] = {}
  for path in paths:
    stem = pathlib.Path(path).stem
    name = path if stem in rows else stem
    config = load_config(["", path, *_ALONE, *keys])
    try:
      rows[name] = sizes(config)
    except (ValueError, NotImplementedError) as error:
      stop(f"{path}: {error}")
  return rows


def main(argv: Sequence[str]) -> None:
  """Prints the table, or a JSON list, and nothing else, on standard output."""
  keys = [argument for argument in argv if "=" in argument]
  paths = [argument for argument in argv if argument not in (*keys, "--json")]
  for path in paths:
    if path.endswith(".yaml"):
      stop(f"{path} cannot be read: MaxText reads .yml only; rename it.")
  bad = [path for path in paths if not path.endswith(".yml")]
  if bad or not paths:
    unknown = f"{bad[0]} is neither a config (.yml) nor a key=value; " if bad else ""
    stop(f"{unknown}usage: python -m melodi_plugin.sizes cfg.yml [more.yml ...] [key=value ...]")
  with contextlib.redirect_stdout(sys.stderr):  # MaxText prints what it reads
    rows = measure(paths, keys)
  if "--json" in argv:
    print(json.dumps([{"name": name, **row._asdict()} for name, row in rows.items()], indent=2))
  else:
    print(table(rows).markdown(), end="")


if __name__ == "__main__":
  main(sys.argv[1:])
