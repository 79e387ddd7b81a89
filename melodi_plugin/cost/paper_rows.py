"""The paper's experiments: what every row of its tables changes, and which row a config is.

What the paper prints of a row is in `printed`.
"""

import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from melodi_plugin.config.keys import MelodiKeys
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.config.settings import as_written
from melodi_plugin.cost.accounting import paper_memory, parameters
from melodi_plugin.cost.printed import ABLATED_LONG, ABLATED_SHORT, PRINTED, Printed

FOLDER = "configs/yaml/paper"
BATCH = 32  # rows of a step, one per core
QUEUE = 65_536  # tokens that a queue of 128 windows of 512 stands for, whatever the window
DEEP = ((24, 1024), (36, 1024), (16, 1536))  # layers and width of the scaling rows
ABLATION: dict[str, Any] = {"steps": 200_000, "warmup_steps_fraction": 0.005}

BASE: dict[str, Any] = {
  "base_config": "base.yml",
  "dataset_type": "grain",
  "grain_train_files": "data/pg19/train-*",
  "grain_eval_files": "data/pg19/test-*",
  "grain_worker_count": 0,
  "packing": False,
  "tokenizer_type": "sentencepiece",
  "tokenizer_path": "data/pg19/tokenizer.model",
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
  "per_device_batch_size": 1,
  "ici_data_parallelism": -1,
  "ici_fsdp_parallelism": 1,
  "remat_policy": "full",
  "steps": 500_000,
  "opt_type": "adafactor",
  "melodi_learning_rate_schedule": "paper",
  "learning_rate": 0.01,
  "learning_rate_final_fraction": 0.1,
  "warmup_steps_fraction": 0.002,
  "gradient_clipping_threshold": 0.0,
}
# Of these, what says how and where a run is done, not what comes out.
_HOW = (
  "base_config",
  "dataset_type",
  "grain_train_files",  # the paper prints a column per text
  "grain_eval_files",
  "grain_worker_count",
  "tokenizer_path",
  "per_device_batch_size",
  "ici_data_parallelism",
  "ici_fsdp_parallelism",
  "remat_policy",
)
# Keys of ours that change what a row is or how it learns, besides those that a row sets.
_DEFAULTS = {
  key: MelodiKeys.model_fields[key].default
  for key in (
    "melodi_base_block",
    "melodi_summary_tokens",
    "melodi_short_term_tokens",
    "melodi_long_term_increment",
    "melodi_long_term_layers",
    "melodi_short_term_layers",
    "melodi_summary_branching",
    "melodi_position",
    "melodi_mask_empty_slots",
    "melodi_cache_tokens",
    "melodi_sink_tokens",
    "melodi_initial_temperature",
    "melodi_long_term_temperature",
    "melodi_scalar_learning_rate_multiplier",
    "melodi_reference_defects",
    "melodi_reset_every_window",
    "melodi_neighbors",
    "melodi_recurrent_layers",
    "melodi_recurrent_states",
    "melodi_recurrent_gate",
    "melodi_recurrent_cell",
    "melodi_recurrent_feedback",
  )
}


class Row(NamedTuple):
  """One experiment."""

  name: str
  what: str
  keys: dict[str, Any]

  @property
  def printed(self) -> Printed:
    """What the paper prints of it."""
    return PRINTED.get(self.name, Printed())

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
    """Memory and size, not rounded, in our closed form."""
    melodi = self.melodi()
    memory = paper_memory(melodi)
    total, short, long = (number / 1e6 for number in (memory.all, *memory))
    return Printed(total, short, long, parameters(melodi) / 1e6)


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
    Row("xl", "Transformer-XL", XL),
    Row("block_recurrent", "Block-Recurrent Transformer", recurrent),
    Row("memorizing", "Memorizing Transformer", _memorizing(12)),
    Row("s192_l32", "MELODI S192+L32", _melodi(192, 32)),
    Row("s128_l64", "MELODI S128+L64", _melodi(128, 64)),
    Row("s192_l96", "MELODI S192+L96", _melodi(192, 96)),
  ]


def _further_rows() -> list[Row]:
  """The abstract's 13 layers, all told; and retrieval as in Wu et al., 2022, from 262,144 pairs."""
  of_abstract = "the abstract's {} with 13 layers"
  melodi = _melodi(128, 64) | _size(13)  # a factor of 8 less memory than 64K pairs
  retrieval = {"melodi_long_term_layers": 8, "melodi_neighbors": 32}
  retrieval |= {"decoder_block": "memorizing_transformer", "melodi_long_term_windows": 512}
  return [
    Row("headline_s128_l64", of_abstract.format("MELODI S128+L64"), melodi),
    Row("headline_memorizing", of_abstract.format("Memorizing Transformer"), _memorizing(12)),
    Row("memorizing_262k", "Memorizing Transformer, 32 neighbors of 262,144 pairs", retrieval),
  ]


def _scaling_rows() -> list[Row]:
  systems = {
    "xl": "Transformer-XL",
    "memorizing": "Memorizing Transformer",
    "s128_l64": "MELODI S128+L64",
    "s192_l96": "MELODI S192+L96",
  }
  memory = {"s128_l64": _melodi(128, 64), "s192_l96": _melodi(192, 96), "xl": XL}
  rows = []
  for short_name, system in systems.items():
    for layers, width in DEEP:
      deep = _size(layers, width)
      own = memory[short_name] | deep if short_name in memory else _memorizing(layers, width)
      what = f"{system} with {layers} layers of width {width}"
      name = f"{short_name}_{layers}_layers" + (f"_{width}_wide" if width != 1024 else "")
      rows.append(Row(name, what, own))
  return rows


def _window_rows() -> list[Row]:
  rows = []
  for sequence, window in ((4096, 1024), (8192, 1024), (8192, 2048)):
    keys, what, end = _window(window), f"with windows of {window} tokens", f"_window_{window}"
    if sequence != BASE["max_target_length"]:
      keys |= {"max_target_length": sequence}
      what, end = f"{what}, sequences of {sequence}", f"{end}_sequence_{sequence}"
    rows.append(Row("xl" + end, f"Transformer-XL {what}", XL | keys))
    memorizing = _memorizing(12) | keys
    rows.append(Row("memorizing" + end, f"Memorizing Transformer {what}", memorizing))
    for short in (window // 4, 3 * window // 8):
      name, system = f"s{short}_l{short // 2}{end}", f"MELODI S{short}+L{short // 2}"
      rows.append(Row(name, f"{system} {what}", _melodi(short, short // 2) | keys))
  return rows


def _ablation(end: str, what: str, short: int = 128, long: int = 64, **keys: Any) -> Row:
  """13 layers, which the paper's S column counts, for fewer steps."""
  name = f"ablation_s{short}_l{long}{end}"
  own = _melodi(short, long) | _size(13) | ABLATION | keys
  return Row(name, f"ablation, MELODI S{short}+L{long} with 13 layers{what}", own)


def _ablation_rows() -> list[Row]:
  """Every S with every L; branching; layers, of which the paper prints no numbers."""
  rows = [_ablation("", "", short, long) for short in ABLATED_SHORT for long in ABLATED_LONG]
  for long in (0, 64):
    what = ", summary tokens handed on unmixed"
    rows.append(_ablation("_unbranched", what, long=long, melodi_summary_branching=False))
  for layers in ("6", "0,6,12", "0,3,6,9,12", "0,2,4,6,8,10,12"):
    count, what = len(layers.split(",")), f", short-term memory in {layers}"
    rows.append(_ablation(f"_{count}_short", what, melodi_short_term_layers=layers))
  for layers in ("4,8", "3,6,9"):
    count, what = len(layers.split(",")), f", queues in {layers}"
    rows.append(_ablation(f"_{count}_long", what, melodi_long_term_layers=layers))
  return rows


ROWS = (*_main_rows(), *_further_rows(), *_scaling_rows(), *_window_rows(), *_ablation_rows())


# -- Whether a config is a row ---------------------------------------------------------------------


class Match(NamedTuple):
  """A row, and the keys in which a config differs from it."""

  row: Row
  changed: list[str]


def match(path: str, setting: Callable[[str], Any], batch: int = BATCH) -> Match | None:
  """The row of a file of the paper's folder; None for any other file.

  Args:
    path: of the config.
    setting: the value of a key, as it is run.
    batch: rows of a step.
  """
  file = pathlib.PurePath(path)
  row = next((row for row in ROWS if row.name == file.stem), None)
  if row is None or file.parent.name != pathlib.PurePath(FOLDER).name:
    return None
  wanted = {k: v for k, v in (_DEFAULTS | BASE | row.keys).items() if k not in _HOW}
  changed = [key for key, value in wanted.items() if as_written(setting(key)) != value]
  return Match(row, changed + ["the rows of a step"] * (batch != BATCH))
