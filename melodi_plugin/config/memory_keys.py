"""The `melodi_*` keys that say what a model with memory is, and how it learns."""

from typing import Literal

from pydantic import BaseModel, Field

Layers = str | int | list[int] | None

PAPER = "paper"  # the melodi_base_block of the paper's own layers


class MemoryKeys(BaseModel):
  """Sizes of memory, where it lies, what it starts with, and what trains it."""

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
    64,
    ge=0,
    description="S: mixed tokens of short-term memory per layer; 0 turns them off.",
  )
  melodi_long_term_increment: int = Field(
    32, ge=0, description="L: tokens that a window adds to a long-term queue; 0 turns it off."
  )
  melodi_long_term_windows: int = Field(
    128, ge=0, description="Q: windows that a long-term queue holds; 0 turns it off."
  )
  melodi_long_term_windows_drawn: str = Field(
    "",
    description="Random compression: a training step shows each row as many of the newest windows "
    "of its queues as it draws from this list, as in 8,32,128, so that one model serves with any "
    "of them as melodi_long_term_windows; more than that is all, and so is the default.",
  )
  melodi_long_term_pairs: bool = Field(
    False,
    description="Queues around a stock block keep keys and values instead of tokens: fewer numbers "
    "where the block has few heads of them, and the same as long as its weights are frozen.",
  )
  melodi_long_term_layers: Layers = Field(
    "middle",
    description="Layers (from 0) that have a long-term queue: 'middle', 'all', 'none', '6' or "
    "'2,6'.",
  )
  melodi_short_term_layers: Layers = Field(
    "all", description="Layers (from 0) that have short-term memory: 'all', 'none' or '0,3,6'."
  )
  melodi_summary_branching: bool = Field(
    True,
    description="Separate token mixers for the next layer and the next window; if false both get "
    "the summary tokens unmixed, which needs S = U.",
  )
  melodi_position: Literal["t5", "rotary", "none"] = Field(
    "t5",
    description="Positions in the self-attention over [memory | context | summary]: 't5' (a bias "
    "by distance), 'rotary' or 'none'.  A stock block keeps its own positions.",
  )
  melodi_mask_empty_slots: bool = Field(
    False,
    description="Hide memory slots that no window of the document has filled yet; the reference "
    "attends to them as zero tokens, a stock block never does, and other systems than MELODI only "
    "with melodi_reference_defects.",
  )
  melodi_adapter: str = Field(
    "",
    description="What memory adds to the stock checkpoint of load_parameters_path: a file that "
    "`melodi graft --adapter` has written for these very weights.",
  )
  melodi_memory_offset: float = Field(
    0.0,
    description="Where the logit offset of mixed short-term tokens around a stock block starts; "
    "-inf hides them.",
  )
  melodi_memory_gate: float = Field(
    2.0,
    description="Where the long-term gate around a stock block starts: the queue's share of a "
    "head's output is sigmoid(-gate); inf hides the queue.",
  )
  melodi_initial_temperature: float = Field(
    1.0,
    gt=0,
    description="Where the temperatures of our own attention start, which multiply cosines: to "
    "find one right slot among M takes about ln M, and Adam moves a temperature by at most the "
    "learning rate per step.",
  )
  melodi_long_term_temperature: float = Field(
    0.0,
    ge=0,
    description="MELODI in the paper's layers: above 0, attention to the long-term queue has "
    "temperatures of its own, which start here; at 0 it shares those of the layer, as in the "
    "paper.",
  )
  melodi_memory_learning_rate_multiplier: float = Field(
    1.0,
    ge=0,
    description="Learning rate of the mixers and summary tokens around a stock block, as a "
    "multiple of learning_rate.  What memory adds has no weight decay.",
  )
  melodi_scalar_learning_rate_multiplier: float = Field(
    1.0,
    ge=0,
    description="Learning rate of temperatures, gates and offsets, as a multiple of learning_rate; "
    "of memory's own around a stock block.",
  )
  melodi_distill_weight: float = Field(
    0.0,
    ge=0,
    description="Distillation around a stock block: beside the language model loss, this times "
    "melodi_distill_temperature squared times the divergence from the same weights with full "
    "attention over the segment and without memory, behind a document's first window; 0 is off.",
  )
  melodi_distill_temperature: float = Field(
    1.0, gt=0, description="What logits are divided by in distillation."
  )
  melodi_distill_top_k: int = Field(
    0,
    ge=0,
    description="Distillation looks at so many of the teacher's best tokens, and at all others as "
    "one, which saves memory; 0 is all.",
  )
  melodi_memory_dtype: Literal["float32", "bfloat16"] = Field(
    "float32", description="Type in which memory is carried from step to step."
  )
  melodi_cache_tokens: int = Field(
    0,
    ge=0,
    description="C: tokens before the window that every layer keeps as they are.  Transformer-XL: "
    "a token sees the C tokens before it, or W if C is smaller, as far as they are kept; 0 is W.  "
    "Around a stock block: their keys and values, beside the S mixed tokens; 0 is none.",
  )
  melodi_neighbors: int = Field(
    0,
    ge=0,
    description="Memorizing Transformer: pairs that a query retrieves from the queue, in layers "
    "that have a cache too; 0 gives a layer of its own that attends to the whole queue.",
  )
  melodi_exact_neighbors: bool = Field(
    False,
    description="Retrieve the pairs with the greatest logits instead of the best of every "
    "melodi_neighbors-th slot.",
  )
  melodi_recurrent_layers: Layers = Field(
    "middle",
    description="Block-Recurrent: layers (from 0) that have states: 'middle', 'none', '9' or "
    "'9,19'.",
  )
  melodi_recurrent_states: int = Field(
    512, gt=0, description="Block-Recurrent, R: states of a recurrent layer."
  )
  melodi_recurrent_gate: Literal["bias", "lstm"] = Field(
    "bias",
    description="Block-Recurrent: how states are rewritten, by a learned share per channel "
    "('bias') or by gates that depend on the input ('lstm').",
  )
  melodi_recurrent_cell: Literal["skip", "dual", "single"] = Field(
    "skip",
    description="Block-Recurrent: where the gates are: after attention without a feed-forward "
    "network ('skip'), after both ('dual'), or after both at once ('single').",
  )
  melodi_recurrent_feedback: bool = Field(
    False,
    description="Block-Recurrent: every layer reads the states; needs melodi_schedule=windows.",
  )
  melodi_reference_defects: bool = Field(
    False,
    description="Other systems than MELODI exactly as in the official code: keys and values are "
    "stored and go stale, empty slots are attended to, and the Memorizing Transformer's own layer "
    "doubles the residual stream and forgets at the end of a segment only.",
  )
  melodi_imports: str = Field(
    "",
    description="Python modules that register systems of your own (docs/own_memory.md), joined by "
    "commas; they are looked for beside the config and in the current folder, too.",
  )
  melodi_schedule: Literal["layers", "windows", "diagonal"] = Field(
    "layers",
    description="Order of the walk over (layer, window): 'layers' reads all windows with a layer "
    "before the next, 'windows' reads a window with all layers before the next, 'diagonal' reads a "
    "window with every layer at once, each a window behind the layer below.",
  )
