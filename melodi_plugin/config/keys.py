"""The `melodi_*` keys that a user sets, written as MaxText writes its own groups of keys."""

import json
from typing import Any, Literal

from pydantic import Field, field_validator

from melodi_plugin.config.serve_keys import ServeKeys

Layers = str | int | list[int] | None

PAPER = "paper"  # the melodi_base_block of the paper's own layers


class MelodiKeys(ServeKeys):
  """Keys of our systems; `max_target_length` is the segment, the rest is MaxText's."""

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
    "of them as melodi_long_term_windows; by default always all.",
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
  melodi_schedule: Literal["layers", "windows"] = Field(
    "layers",
    description="Order of the walk over (layer, window): 'layers' reads all windows with a layer "
    "before the next, 'windows' keeps the activations of one window only.",
  )
  melodi_reset_every_window: bool = Field(
    False,
    description="Control: forget all memory at every window; positions stay those of the document.",
  )
  melodi_documents_in_rows: bool = Field(
    False,
    description="A stock decoder_block reads documents as decoders with memory do: whole, one "
    "after another in the rows of the batch, every segment of max_target_length tokens alone; "
    "without it MaxText's loader cuts them off.  `melodi compare` and `melodi evaluate` set it.",
  )
  melodi_sliding_window: int = Field(
    0,
    ge=0,
    description="Attention of a stock decoder: to the last so many tokens, the token itself among "
    "them, and to melodi_sink_tokens; 0 is to all of the segment.  Needs attention=dot_product.",
  )
  melodi_sink_tokens: int = Field(
    0,
    ge=0,
    description="Attention sinks (StreamingLLM), the first so many tokens, which all later ones "
    "see: those that a chunk has of a document, beside melodi_sliding_window of a stock decoder; "
    "those of a whole document in every layer of Transformer-XL, and of short-term memory around a "
    "stock block, at most W.",
  )
  melodi_overlapping_chunks: bool = Field(
    False,
    description="`melodi evaluate` lets a stock decoder read every chunk of max_target_length "
    "tokens from the middle of the one before and scores the second half, so that no token has "
    "less than half a context unless its document begins there; twice the work, as many scores.",
  )
  melodi_prepare_data: Literal["", "shakespeare", "mqar", "recall"] = Field(
    "",
    description="Corpus that `melodi train` writes first, into the folder of "
    "grain_train_files, if it is not there yet.",
  )
  melodi_id_field: str = Field(
    "id",
    description="Field that names a document; its text is the first of train_data_columns or "
    "eval_data_columns.",
  )
  melodi_special_tokens_in_text: bool = Field(
    False,
    description="Read a special token that is spelled out in a document (`<|endoftext|>`, `</s>`) "
    "as that token; by default it is text like any other.  SentencePiece knows it as text only.",
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
  melodi_checkpoint_fallback: bool = Field(
    True,
    description="If the last checkpoint of a run is damaged, set it aside as STEP.broken and go on "
    "from the newest whole one before it, instead of stopping.",
  )
  melodi_probe: Literal[
    "", "passkey", "mqar", "recall", "rare_words", "new_names", "longppl", "ruler", "babilong"
  ] = Field(
    "",
    description="What `melodi evaluate` measures instead of perplexity: recall of a 'passkey' or "
    "of associations ('mqar', and 'recall' up to 4096 windows) against distance; the loss on "
    "repeated 'rare_words', on 'new_names' that a document defines, or on tokens that need far "
    "context ('longppl'); answers about long texts ('ruler', 'babilong').",
  )
  melodi_probe_tasks: str = Field(
    "",
    description="Tasks of the probes 'ruler' and 'babilong', as in niah_single_2,qa1; by default "
    "all of the probe.",
  )
  melodi_probe_lengths: str = Field(
    "",
    description="Tokens of the texts of these probes, as in 4096,16384; by default 4, 16 and 64 "
    "windows.",
  )
  melodi_probe_texts: int = Field(
    8, gt=0, description="Texts of these probes per task and length; intervals are over texts."
  )
  melodi_probe_writes: bool = Field(
    False,
    description="Let the model of these probes also write an answer by itself, which is right if "
    "it begins with the right one; by default answers are only scored.",
  )
  melodi_judge: str = Field(
    "",
    description="Who says which tokens need far context: two files of losses, as in "
    "long/losses.npz,short/losses.npz, of any model that reads the same tokens with long and with "
    "short context; by default the model itself, with memory and without.",
  )
  melodi_write_losses: bool = Field(
    False,
    description="Let `melodi evaluate` also write the loss of every token, into losses.npz beside "
    "its report.",
  )
  melodi_evaluate_after_training: bool = Field(
    False, description="Read the documents of grain_eval_files when `melodi train` ends."
  )
  melodi_prompt_file: str = Field(
    "",
    description="Text that `melodi decode` goes on from, of any length, instead of prompt: a file, "
    "or '-' for standard input.",
  )
  melodi_max_tokens: int = Field(
    256, ge=1, description="The most tokens that `melodi decode` writes after a prompt."
  )
  melodi_stop: str = Field(
    "",
    description="Where the text of `melodi decode` ends: a string, which is not written, or a JSON "
    'list of several, as in ["\\n\\n", "User:"].',
  )
  melodi_seed: int = Field(
    -1,
    ge=-1,
    description="Seed of what `melodi decode` draws: the same seed, the same text; -1 draws "
    "another one every time.",
  )
  melodi_documents: str = Field(
    "",
    description="Documents that `melodi memorize` reads: files, folders and globs joined by "
    "commas, or '-' for standard input.",
  )
  melodi_memory_file: str = Field(
    "", description="Memory that `melodi decode` and `melodi evaluate` begin with: a file."
  )
  melodi_memory_out: str = Field(
    "",
    description="Where memory is kept: the file of `melodi decode`, the folder of `melodi "
    "memorize`, which has a file per document.",
  )
  melodi_memory_compact: bool = Field(
    False,
    description="Leave keys and values of memory out of its file: it is smaller, and they are "
    "computed again when it is read, equal up to rounding but not bit for bit.",
  )
  melodi_memory_title: str = Field(
    "", description="Title in the file of melodi_memory_out; by default the name of the document."
  )
  melodi_slots: int = Field(
    4,
    ge=1,
    description="Rows of memory that are read or written at the same time.",
  )
  melodi_learning_rate_schedule: Literal["maxtext", "paper"] = Field(
    "maxtext",
    description="'paper': the warm-up is a factor of a cosine that starts at step 0, and after "
    "learning_rate_schedule_steps the learning rate halves every so many steps; for any decoder.",
  )

  @field_validator("melodi_position", mode="before")
  @classmethod
  def _null_is_none(cls, value: Any) -> Any:
    """MaxText reads the word none as null."""
    return "none" if value is None else value

  @field_validator("melodi_stop", mode="before")
  @classmethod
  def _list_is_json(cls, value: Any) -> Any:
    """A list in a YAML file."""
    return json.dumps(value) if isinstance(value, list) else value

  @field_validator("melodi_probe_lengths", "melodi_long_term_windows_drawn", mode="before")
  @classmethod
  def _numbers_are_text(cls, value: Any) -> Any:
    """One number on a command line, or a list of them in a YAML file."""
    numbers = value if isinstance(value, list) else [value]
    return ",".join(map(str, numbers)) if all(isinstance(n, int) for n in numbers) else value

  @field_validator(
    "melodi_adapter",
    "melodi_imports",
    "melodi_long_term_windows_drawn",
    "melodi_prepare_data",
    "melodi_probe",
    "melodi_probe_tasks",
    "melodi_probe_lengths",
    "melodi_judge",
    "melodi_prompt_file",
    "melodi_stop",
    "melodi_documents",
    "melodi_memory_file",
    "melodi_memory_out",
    "melodi_memory_title",
    "melodi_serve_hosts",
    "melodi_serve_key_file",
    "melodi_serve_model",
    "melodi_serve_folder",
    mode="before",
  )
  @classmethod
  def _null_is_empty(cls, value: Any) -> Any:
    """MaxText reads `key=` as null."""
    return "" if value is None else value
