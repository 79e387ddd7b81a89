"""Documents and conversations in files, with tokenizers, and the keys of a run that reads them."""

import json
import pathlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import sentencepiece

from melodi_plugin.testing.files import chats

TEXTS = ["the cat sat on the mat", "a dog", "the dog sat on the cat and the cat sat on the dog"] * 2
TALKS = [
  chats.conversation("abc", "de", "f", "gh"),
  chats.conversation("a b c", "jj", system="i i"),
  chats.conversation("bad", "egg", "bed", "h"),
]
# What MaxText and ours have as defaults, and the sizes of small batches.
_KEYS: dict[str, Any] = {
  "tokenizer_type": "sentencepiece",
  "add_bos": True,
  "add_eos": True,
  "hf_access_token": "",
  "melodi_special_tokens_in_text": False,
  "vocab_size": 300,
  "max_target_length": 8,
  "decoder_block": "melodi",
  "melodi_overlapping_chunks": False,
  "melodi_window_length": 4,
  "melodi_cache_tokens": 0,
  "melodi_sink_tokens": 0,
  "melodi_long_term_pairs": False,
  "global_batch_size_to_load": 2,
  "global_batch_size_to_train_on": 2,
  "global_batch_size_to_load_eval": 2,
  "global_batch_size_to_eval_on": 2,
  "enable_data_shuffling": True,
  "data_shuffle_seed": 3,
  "num_epoch": 1,
  "generate_padding_batch_train": False,
  "generate_padding_batch_eval": False,
  "expansion_factor_real_data": -1.0,
  "train_data_columns": ["text"],
  "eval_data_columns": ["text"],
  "melodi_id_field": "id",
  "use_sft": False,
  "melodi_max_document_bytes": 2**20,
  "melodi_skip_broken_documents": False,
  "melodi_restart_documents": False,
  "run_name": "run",
  "grain_worker_count": 0,
  "grain_num_threads": 2,
  "grain_worker_count_eval": 0,
  "grain_num_threads_eval": 2,
  "enable_rampup_batch_size": False,
  "colocated_python_data_input": False,
  "grain_use_elastic_iterator": False,
  "grain_train_mixture_config_path": "",
  "tokenize_train_data": True,
  "tokenize_eval_data": True,
}


def config_of_texts(folder: pathlib.Path) -> SimpleNamespace:
  """Writes `TEXTS`, three of them to evaluate with, and a tokenizer; the keys that read them."""
  lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(TEXTS)]
  (folder / "train.jsonl").write_text("\n".join(lines))
  (folder / "eval.jsonl").write_text("\n".join(lines[:3]))
  with (folder / "tokenizer.model").open("wb") as model:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXTS),
      model_writer=model,
      vocab_size=300,
      model_type="bpe",
      byte_fallback=True,
      minloglevel=2,
      hard_vocab_limit=False,
    )
  return SimpleNamespace(
    grain_train_files=str(folder / "train.jsonl"),
    grain_eval_files=str(folder / "eval.jsonl"),
    tokenizer_path=str(folder / "tokenizer.model"),
    base_output_directory=str(folder / "runs"),
    **_KEYS,
  )


def config_of_talks(folder: pathlib.Path) -> SimpleNamespace:
  """The same of `TALKS`, with a chat template."""
  config = config_of_texts(folder)
  train = chats.write_conversations(folder / "talks.jsonl", TALKS)
  tokenizer = chats.write_chat_tokenizer(folder / "tokenizer")
  config.grain_train_files = config.grain_eval_files = str(train)
  config.tokenizer_path, config.tokenizer_type = str(tokenizer), "huggingface"
  config.train_data_columns = config.eval_data_columns = ["messages"]
  config.use_sft = config.sft_train_on_completion_only = True
  config.chat_template = config.chat_template_path = ""
  return config


def take(iterator: Iterator[Any], count: int) -> list[Any]:
  """The next batches, as NumPy arrays."""
  return [jax.tree.map(np.asarray, next(iterator)) for _ in range(count)]
