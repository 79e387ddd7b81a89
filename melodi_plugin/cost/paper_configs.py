"""Configs of the paper's experiments.

One table, one YAML per row.  A row says what it changes, and what the paper prints of it.
"""

import pathlib
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.cost.accounting import paper_memory, parameters

FOLDER = "configs/yaml/paper"
SHARED = "shared/paper.yml"
QUEUE = 65_536  # tokens that a queue of 128 windows of 512 stands for, whatever the window
DEEP = ((24, 1024), (36, 1024), (16, 1536))  # layers and width of the scaling rows
ABLATED_SHORT = {8: 0.1, 16: 0.2, 32: 0.4, 64: 0.9, 128: 1.7, 192: 2.6, 256: 3.4}
ABLATED_LONG = {0: 0.0, 8: 2.1, 16: 4.2, 32: 8.4, 64: 16.8, 96: 25.2}

BASE: dict[str, Any] = {
  "base_config": "base.yml",
  "dataset_type": "grain",
  "grain_worker_count": 0,
  "packing": False,
  "tokenizer_type": "sentencepiece",
  "vocab_size": 32128,
  "add_bos": False,
  "add_eos": False,
  "decoder_block": "melodi",
  "base_num_decoder_layers": 12,
  "base_emb_dim": 1024,
  "base_num_query_heads": 8,
  "base_num_kv_heads": 8,
  "head_dim": 128,
  "base_mlp_dim": 4096,
  "dropout_rate": 0.05,
  "logits_via_embedding": True,
  "normalize_embedding_logits": True,
  "melodi_window_length": 512,
  "melodi_long_term_windows": 128,
  "max_target_length": 4096,
  "per_device_batch_size": 2,
  "remat_policy": "full",
  "steps": 500_000,
  "opt_type": "adafactor",
  "melodi_learning_rate_schedule": "paper",
  "learning_rate": 0.01,
  "learning_rate_final_fraction": 0.1,
  "warmup_steps_fraction": 0.002,
  "gradient_clipping_threshold": 0.0,
}


class Printed(NamedTuple):
  """Millions of numbers that the paper prints; None where it prints none."""

  all: float | None = None
  short: float | None = None
  long: float | None = None
  parameters: float | None = None  # without the embedding table


class Row(NamedTuple):
  """One experiment."""

  name: str
  what: str
  keys: dict[str, Any]
  printed: Printed

  def melodi(self) -> MelodiConfig:
    """The sizes, read without MaxText."""
    keys = MelodiKeys.model_validate({}).model_dump() | BASE | self.keys
    derived = {
      "num_decoder_layers": keys["base_num_decoder_layers"],
      "emb_dim": keys["base_emb_dim"],
      "num_query_heads": keys["base_num_query_heads"],
      "num_kv_heads": keys["base_num_kv_heads"],
      "mlp_dim": keys["base_mlp_dim"],
    }
    return MelodiConfig.from_maxtext(SimpleNamespace(**keys | derived))

  @property
  def counted(self) -> Printed:
    """The same numbers, not rounded, in our closed form."""
    melodi = self.melodi()
    memory = paper_memory(melodi)
    return Printed(*(number / 1e6 for number in (memory.all, *memory, parameters(melodi))))


# -- The table -------------------------------------------------------------------------------------


def _size(layers: int, width: int = 1024) -> dict[str, Any]:
  """Keys of depth and width, as far as they differ from `BASE`; heads have 128 channels."""
  keys: dict[str, Any] = {} if layers == 12 else {"base_num_decoder_layers": layers}
  if width != BASE["base_emb_dim"]:
    heads = width // 128
    keys |= {"base_emb_dim": width, "base_num_query_heads": heads, "base_num_kv_heads": heads}
    keys |= {"base_mlp_dim": 4 * width}
  return keys


def _window(window: int) -> dict[str, Any]:
  if window == BASE["melodi_window_length"]:
    return {}
  return {"melodi_window_length": window, "melodi_long_term_windows": QUEUE // window}


def _melodi(short: int, increment: int) -> dict[str, Any]:
  """Keys of MELODI with `short` short-term tokens, and as many summary tokens."""
  keys = ("melodi_summary_tokens", "melodi_short_term_tokens", "melodi_long_term_increment")
  return dict(zip(keys, (short, short, increment), strict=True))


def _memorizing(layers: int, width: int = 1024) -> dict[str, Any]:
  """Layers with a cache, and one more with the queue where the official code has it."""
  keys = {"decoder_block": "memorizing_transformer", "melodi_long_term_layers": layers // 2 + 1}
  return keys | _size(layers + 1, width)


XL = {"decoder_block": "transformer_xl"}


def _main_rows() -> list[Row]:
  recurrent = {"decoder_block": "block_recurrent", "melodi_recurrent_layers": 9}
  return [
    Row("xl", "Transformer-XL", XL, Printed(12.6, 12.6, 0.0, 151)),
    Row("block_recurrent", "Block-Recurrent Transformer", recurrent, Printed(12.1, 12.1, 0.0)),
    Row("memorizing", "Memorizing Transformer", _memorizing(12), Printed(146.8, 12.6, 134.2)),
    Row("s192_l32", "MELODI S192+L32", _melodi(192, 32), Printed(10.8, 2.4, 8.4)),
    Row("s128_l64", "MELODI S128+L64", _melodi(128, 64), Printed(18.4, 1.6, 16.8, 153)),
    Row("s192_l96", "MELODI S192+L96", _melodi(192, 96), Printed(27.6, 2.4, 25.2, 153)),
  ]


def _scaling_rows() -> list[Row]:
  """Per system: memory, and size without embedding, for every entry of `DEEP`."""
  printed = {
    ("xl", "Transformer-XL"): ((25.2, 302), (37.8, 453), (25.2, 453)),
    ("memorizing", "Memorizing Transformer"): ((159.4, None), (172.0, None), (226.5, None)),
    ("s128_l64", "MELODI S128+L64"): ((20.0, 306), (21.6, 459), (28.3, 456)),
    ("s192_l96", "MELODI S192+L96"): ((30.0, 309), (32.4, 463), (42.5, 459)),
  }
  memory = {"s128_l64": _melodi(128, 64), "s192_l96": _melodi(192, 96), "xl": XL}
  rows = []
  for (short_name, system), numbers in printed.items():
    for (layers, width), (total, size) in zip(DEEP, numbers, strict=True):
      deep = _size(layers, width)
      own = memory[short_name] | deep if short_name in memory else _memorizing(layers, width)
      what = f"{system} with {layers} layers of width {width}"
      name = f"{short_name}_{layers}_layers" + (f"_{width}_wide" if width != 1024 else "")
      rows.append(Row(name, what, own, Printed(total, parameters=size)))
  return rows


def _window_rows() -> list[Row]:
  printed = {
    1024: (25.2, 159.4, {(256, 128): 20.0, (384, 192): 30.0}),
    2048: (50.3, 184.5, {(512, 256): 23.1, (768, 384): 34.6}),
  }
  rows = []
  for window, (xl, memorizing, melodi) in printed.items():
    own, what, end = _window(window), f"with windows of {window} tokens", f"_window_{window}"
    rows.append(Row("xl" + end, f"Transformer-XL {what}", XL | own, Printed(xl)))
    keys = _memorizing(12) | own
    rows.append(
      Row("memorizing" + end, f"Memorizing Transformer {what}", keys, Printed(memorizing))
    )
    for (short, increment), total in melodi.items():
      keys = _melodi(short, increment) | own
      what_melodi = f"MELODI S{short}+L{increment} {what}"
      rows.append(Row(f"s{short}_l{increment}{end}", what_melodi, keys, Printed(total)))
  return rows


def _ablation_rows() -> list[Row]:
  """Every S with every L; the paper's S column counts 13 layers."""
  rows = []
  for short, short_print in ABLATED_SHORT.items():
    for increment, long_print in ABLATED_LONG.items():
      what = f"ablation, MELODI S{short}+L{increment} with 13 layers"
      printed = Printed(short=short_print, long=long_print)
      keys = _melodi(short, increment) | _size(13)
      rows.append(Row(f"ablation_s{short}_l{increment}", what, keys, printed))
  return rows


ROWS = (*_main_rows(), *_scaling_rows(), *_window_rows(), *_ablation_rows())


# -- The files -------------------------------------------------------------------------------------


def _numbers(row: Row) -> str:
  names = ("memory", "short", "long", "parameters without embedding")
  parts = []
  for name, ours, print_ in zip(names, row.counted, row.printed, strict=True):
    paper = "" if print_ is None else f" (paper {print_:g})"
    parts.append(f"{name} {ours:.1f}{paper}")
  *memory, size = parts
  return f"#           Millions: {', '.join(memory)},\n#           {size}.\n"


def _text(header: str, keys: dict[str, Any]) -> str:
  return header + yaml.safe_dump(keys, sort_keys=False)


def files() -> dict[str, str]:
  """The content of every file, by its path below the folder."""
  written = "# Written by `melodi paper-configs`; change it there.\n"
  shared = (
    "# What:     what all configs of this folder share: the paper's training, a batch of 32 rows.\n"
    "# Hardware: 16 chips (per_device_batch_size times chips are the rows).\n" + written
  )
  found = {SHARED: _text(shared, BASE)}
  for row in ROWS:
    header = (
      f"# What:     {row.what}.\n"
      f"{_numbers(row)}"
      f"# Command:  melodi train {FOLDER}/{row.name}.yml\n"
      "#             run_name=… base_output_directory=gs://… grain_train_files=<documents>\n"
      "#             tokenizer_path=<sentencepiece model, 32128 ids>\n" + written
    )
    found[f"{row.name}.yml"] = _text(header, {"base_config": SHARED, **row.keys})
  return found


def differences(folder: pathlib.Path) -> list[str]:
  """Files below the folder that are missing, different, or not in the table."""
  wanted = files()
  there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.yml")}
  return sorted(
    name
    for name in wanted.keys() | there.keys()
    if name not in there or there[name].read_text(encoding="utf-8") != wanted.get(name)
  )
