"""The `melodi_*` keys, their checks, and the sizes derived from them.

`MelodiKeys` is the group of keys that a user sets, written as MaxText writes its own groups.
`MelodiConfig` is what the model reads: frozen, hashable, complete, and free of MaxText.
"""

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, field_validator

Layers = str | int | list[int] | None

PAPER = "paper"  # the melodi_base_block of the paper's own layers

# Where a decoder keeps what memory adds to a stock block; regular expressions on parameter paths.
MEMORY_PREFIX, SUMMARY_TABLE = "memory_layers_", "summary_embeddings"
MEMORY_PATTERNS = (f"decoder/{MEMORY_PREFIX}", f"decoder/{SUMMARY_TABLE}")


def is_gate(path: str) -> bool:
  """Whether the parameter at this path is a gate or an offset of memory around a stock block."""
  return is_memory_parameter(path) and path.rsplit("/", 1)[-1] in ("gate", "offset")


def is_memory_parameter(path: str) -> bool:
  """Whether memory adds the parameter at this path to a stock model."""
  return any(pattern in path for pattern in MEMORY_PATTERNS)


class MelodiKeys(BaseModel):
  """Keys of `decoder_block: melodi`; `max_target_length` is the segment, the rest is MaxText's."""

  melodi_base_block: str = Field(
    PAPER,
    description="What memory is built around: 'paper', the layers of the paper, or a decoder_block "
    "of MaxText (llama2, mistral, qwen2, qwen3, mixtral, qwen3_moe, gemma2, gemma3), whose "
    "pretrained weights can be used.",
  )
  melodi_window_length: int = Field(
    512, gt=0, description="W: tokens of one context window; divides max_target_length."
  )
  melodi_summary_tokens: int = Field(
    64, ge=0, description="U: summary tokens that follow every window; 0 turns them off."
  )
  melodi_short_term_tokens: int = Field(
    64, ge=0, description="S: short-term memory tokens per layer; 0 turns short-term memory off."
  )
  melodi_long_term_increment: int = Field(
    32, ge=0, description="L: tokens that a window adds to a long-term queue; 0 turns it off."
  )
  melodi_long_term_windows: int = Field(
    128, ge=0, description="Q: windows that a long-term queue holds; 0 turns it off."
  )
  melodi_long_term_layers: Layers = Field(
    "middle",
    description="Layers (from 0) that have a long-term queue: 'middle', 'none', '6' or '2,6'.",
  )
  melodi_short_term_layers: Layers = Field(
    "all", description="Layers (from 0) that have short-term memory: 'all', 'none' or '0,3,6'."
  )
  melodi_summary_branching: bool = Field(
    True,
    description="Separate token mixers for the next layer and the next window; if false both get "
    "the summary tokens unmixed, which needs S = U.",
  )
  melodi_position: Literal["t5", "none"] = Field(
    "t5",
    description="Position bias of the paper's self-attention over [memory | context | summary]: "
    "'t5' or 'none'.  A stock block keeps its own positions.",
  )
  melodi_mask_empty_slots: bool = Field(
    False,
    description="Hide memory slots that no window of the document has filled yet; the reference "
    "attends to them as zero tokens, a stock block never does.",
  )
  melodi_memory_offset: float = Field(
    0.0,
    description="Where the logit offset of short-term slots around a stock block starts; -inf "
    "hides them.",
  )
  melodi_memory_gate: float = Field(
    2.0,
    description="Where the long-term gate around a stock block starts: the queue's share of a "
    "head's output is sigmoid(-gate); inf hides the queue.",
  )
  melodi_memory_learning_rate_multiplier: float = Field(
    1.0,
    ge=0,
    description="Learning rate of the mixers and summary tokens around a stock block, as a "
    "multiple of learning_rate.  What memory adds has no weight decay.",
  )
  melodi_gate_learning_rate_multiplier: float = Field(
    1.0,
    ge=0,
    description="Learning rate of the gates and offsets around a stock block, as a multiple of "
    "learning_rate.",
  )
  melodi_memory_dtype: Literal["float32", "bfloat16"] = Field(
    "float32", description="Type in which memory is carried from step to step."
  )
  melodi_schedule: Literal["layers", "windows"] = Field(
    "layers",
    description="Order of the walk over (layer, window): 'layers' reads all windows with a layer "
    "before the next, 'windows' keeps the activations of one window only.",
  )
  melodi_reset_every_window: bool = Field(
    False,
    description="Control: forget all memory at every window; positions stay those of the document.",
  )
  melodi_prepare_data: Literal["", "shakespeare", "mqar"] = Field(
    "",
    description="Corpus that `melodi_plugin.train` writes first, into the folder of "
    "grain_train_files, if it is not there yet.",
  )
  melodi_id_field: str = Field(
    "id",
    description="Field that names a document; its text is the first of train_data_columns or "
    "eval_data_columns.",
  )
  melodi_max_document_bytes: int = Field(
    2**24,
    gt=0,
    description="A document with more UTF-8 bytes of text counts as broken: reading and "
    "tokenizing take up to 60 times this much memory.",
  )
  melodi_skip_broken_documents: bool = Field(
    False,
    description="Leave broken documents out, counted and listed in skipped_documents.jsonl, "
    "instead of stopping at the first.",
  )
  melodi_restart_documents: bool = Field(
    False,
    description="If the saved place in the documents does not fit this run (other rows, hosts, "
    "windows or files), start the documents anew with empty memory instead of stopping.",
  )
  melodi_probe: Literal["", "passkey", "mqar", "rare_words"] = Field(
    "",
    description="What `melodi_plugin.evaluate` measures instead of perplexity: recall of a "
    "'passkey' or of associations ('mqar') against distance, or the loss on repeated "
    "'rare_words'.",
  )
  melodi_evaluate_after_training: bool = Field(
    False, description="Read the documents of grain_eval_files when `melodi_plugin.train` ends."
  )

  @field_validator("melodi_position", mode="before")
  @classmethod
  def _null_is_none(cls, value: Any) -> Any:
    """MaxText reads the word none as null."""
    return "none" if value is None else value


class LayerSpec(NamedTuple):
  """What one layer keeps and mixes.  Layers of equal spec can share a `lax.scan`."""

  short_tokens: int  # S of this layer, 0 without short-term memory
  increment: int  # L of this layer, 0 without a long-term queue
  queue_tokens: int  # M of this layer
  mixes_summary: bool  # has a mixer for the next layer's summary tokens
  mixes_short: bool  # has a mixer for the next window's short-term memory
  residual_short: bool  # that mixer has norms and the residual (the paper's layers, S = U)


class Run(NamedTuple):
  """A maximal run of consecutive layers with one spec."""

  spec: LayerSpec
  first: int
  length: int


@dataclasses.dataclass(frozen=True)
class MelodiConfig:
  """A MELODI stack, without vocabulary.  Raises ValueError where sizes contradict each other."""

  num_layers: int
  emb_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  window_length: int
  summary_tokens: int
  short_term_tokens: int
  long_term_increment: int
  long_term_windows: int
  long_term_layers: tuple[int, ...]
  short_term_layers: tuple[int, ...]
  summary_branching: bool = True
  position: str = "t5"
  mask_empty_slots: bool = False
  dropout_rate: float = 0.0
  base_block: str = PAPER
  num_kv_heads: int = 0  # of a stock block; the paper's layers have num_heads
  num_attentions: int = 1  # of one layer

  def __post_init__(self):
    for name in ("long_term_layers", "short_term_layers"):
      outside = [i for i in getattr(self, name) if not 0 <= i < self.num_layers]
      if outside:
        raise ValueError(
          f"melodi_{name} names layer {outside[0]}, but the model has layers 0 to "
          f"{self.num_layers - 1}."
        )
    short, summary = self.short_term_tokens, self.summary_tokens
    if not self.summary_branching and self.short_term_layers and short not in (0, summary):
      raise ValueError(
        f"melodi_summary_branching=false hands the {summary} summary tokens on as short-term "
        f"memory, so melodi_short_term_tokens must be {summary} or 0, not {short}."
      )

  @classmethod
  def from_maxtext(cls, config: Any) -> "MelodiConfig":
    """Reads the sizes off a MaxText config, by attribute only."""
    return cls(
      num_layers=config.num_decoder_layers,
      emb_dim=config.emb_dim,
      num_heads=config.num_query_heads,
      head_dim=config.head_dim,
      mlp_dim=config.mlp_dim,
      window_length=config.melodi_window_length,
      summary_tokens=config.melodi_summary_tokens,
      short_term_tokens=config.melodi_short_term_tokens,
      long_term_increment=config.melodi_long_term_increment,
      long_term_windows=config.melodi_long_term_windows,
      long_term_layers=parse_layers(
        "melodi_long_term_layers", config.melodi_long_term_layers, config.num_decoder_layers
      ),
      short_term_layers=parse_layers(
        "melodi_short_term_layers", config.melodi_short_term_layers, config.num_decoder_layers
      ),
      summary_branching=config.melodi_summary_branching,
      position=config.melodi_position,
      mask_empty_slots=config.melodi_mask_empty_slots or config.melodi_base_block != PAPER,
      dropout_rate=config.dropout_rate,
      base_block=config.melodi_base_block,
      num_kv_heads=config.num_kv_heads,
      num_attentions=2 if config.melodi_base_block == "gemma2" else 1,
    )

  @property
  def queue_tokens(self) -> int:
    """M: tokens of one long-term queue."""
    return self.long_term_windows * self.long_term_increment

  @property
  def stored_heads(self) -> int:
    """Heads of the keys and values of one token in one layer."""
    return self.num_heads if self.base_block == PAPER else self.num_kv_heads * self.num_attentions

  @property
  def mixer_inputs(self) -> int:
    """Tokens that a token mixer reads: one window and its summary tokens."""
    return self.window_length + self.summary_tokens

  def layer(self, index: int) -> LayerSpec:
    """The spec of layer `index` (SEMANTICS: S = 0 and 'no branching' rules)."""
    short = self.short_term_tokens if index in self.short_term_layers else 0
    long = index in self.long_term_layers and self.queue_tokens > 0
    branching = self.summary_branching and self.summary_tokens > 0
    mixes_short = short > 0 and self.summary_branching
    return LayerSpec(
      short_tokens=short,
      increment=self.long_term_increment if long else 0,
      queue_tokens=self.queue_tokens if long else 0,
      # Without short-term memory only a long-term layer still mixes u: the reference's asymmetry.
      mixes_summary=branching and (short > 0 or long),
      mixes_short=mixes_short,
      # A stock layer's short-term memory starts as a copy of tokens, so nothing is added to it.
      residual_short=mixes_short and short == self.summary_tokens and self.base_block == PAPER,
    )

  @property
  def layers(self) -> tuple[LayerSpec, ...]:
    """The spec of every layer."""
    return tuple(self.layer(index) for index in range(self.num_layers))

  def runs(self, scan_layers: bool = True) -> tuple[Run, ...]:
    """Maximal runs of equal layers, or one run per layer if layers are not scanned."""
    if not scan_layers:
      return tuple(Run(spec, index, 1) for index, spec in enumerate(self.layers))
    runs, first = [], 0
    for spec, group in groupby(self.layers):
      length = len(list(group))
      runs.append(Run(spec, first, length))
      first += length
    return tuple(runs)


def parse_layers(name: str, value: Layers | Sequence[int], num_layers: int) -> tuple[int, ...]:
  """Turns 'all', 'middle', 'none', '2,6', 6 or [2, 6] into sorted layer indices.

  MaxText reads the word none as null, and environment variables only as text: hence the forms.
  """
  if value is None or value in ("", "none"):
    return ()
  if value == "all":
    return tuple(range(num_layers))
  if value == "middle":
    return (num_layers // 2,)
  try:
    if isinstance(value, str):
      value = [int(part) for part in value.strip("[]() ").split(",")]
    return tuple(sorted({int(i) for i in ([value] if isinstance(value, int) else value)}))
  except ValueError:
    raise ValueError(
      f"{name}={value!r} is not a list of layers; write 'all', 'middle', 'none', or numbers from "
      "0 such as '2,6'."
    ) from None
