"""The `melodi_*` keys that a user sets, written as MaxText writes its own groups of keys."""

import json
from typing import Any, Literal

from pydantic import Field, field_validator

from melodi_plugin.config.memory_keys import MemoryKeys
from melodi_plugin.config.serve_keys import ServeKeys


class MelodiKeys(MemoryKeys, ServeKeys):
  """Keys of our systems; `max_target_length` is the segment, the rest is MaxText's."""

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
