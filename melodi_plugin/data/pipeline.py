"""Sticky batch rows for a MaxText config.

`make_train_iterator` and `make_eval_iterator` have the signature of MaxText's
`make_grain_{train,eval}_iterator` and take their place; `dataset_type` stays `grain`, because
MaxText saves and restores the iterator only under that name.  `make_document_batches` is for
evaluation that counts the loss per document.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from maxtext.input_pipeline import tokenizer as maxtext_tokenizer
from maxtext.input_pipeline.multihost_dataloading import MultiHostDataLoadIterator

from melodi_plugin.data.documents import open_documents
from melodi_plugin.data.rows import StickyRows

# Keys of MaxText's Grain path that would ask for something else than these rows: (key, the values
# under which nothing is asked, why).
_UNUSED_KEYS = (
  ("expansion_factor_real_data", (-1, 1), "it would put consecutive batches into different rows"),
  ("enable_rampup_batch_size", (False,), "rows that are added later would start without memory"),
  ("colocated_python_data_input", (False,), "the rows are read in the training process"),
  ("grain_use_elastic_iterator", (False,), "a row cannot move to another process"),
  ("grain_train_mixture_config_path", ("", None), "join folders in grain_train_files with ';'"),
  ("tokenize_train_data", (True,), "documents are read as text"),
  ("tokenize_eval_data", (True,), "documents are read as text"),
)


def make_train_iterator(
  config: Any, mesh: jax.sharding.Mesh, process_indices: list[int]
) -> MultiHostDataLoadIterator:
  """Training batches of `config.grain_train_files` for the processes `process_indices`.

  MaxText's default `num_epoch: 1` repeats the documents for as long as `steps` asks, with a log
  line at every new epoch; a larger `num_epoch` ends the training after that many.

  Returns:
    An iterator of dicts of global int32 arrays [B, T], as described at `StickyRows`.

  Raises:
    ValueError: if the files, the tokenizer or another key do not fit.
  """
  rows = _rows_per_process(
    "per_device_batch_size",
    config.global_batch_size_to_load,
    config.global_batch_size_to_train_on,
    len(process_indices),
  )
  dataset = _open(
    config,
    config.grain_train_files,
    rows=rows,
    shuffle=config.enable_data_shuffling,
    epochs=config.num_epoch if config.num_epoch > 1 else None,
    shard_index=process_indices.index(jax.process_index()),
    shard_count=len(process_indices),
  )
  if len(dataset.source) < config.global_batch_size_to_load:
    logging.warning(
      "%d documents for a batch of %d rows: some rows read the same document at the same time.",
      len(dataset.source),
      config.global_batch_size_to_load,
    )
  return MultiHostDataLoadIterator(dataset, mesh, config.generate_padding_batch_train)


def make_eval_iterator(
  config: Any, mesh: jax.sharding.Mesh, process_indices: list[int]
) -> MultiHostDataLoadIterator:
  """As `make_train_iterator`, of `config.grain_eval_files`, once and in the order of the files."""
  rows = _rows_per_process(
    "eval_per_device_batch_size",
    config.global_batch_size_to_load_eval,
    config.global_batch_size_to_eval_on,
    len(process_indices),
  )
  dataset = _open(
    config,
    config.grain_eval_files,
    rows=rows,
    shuffle=False,
    epochs=1,
    shard_index=process_indices.index(jax.process_index()),
    shard_count=len(process_indices),
  )
  return MultiHostDataLoadIterator(dataset, mesh, config.generate_padding_batch_eval)


def make_document_batches(config: Any, pattern: str, *, rows: int) -> StickyRows:
  """All documents of `pattern` once, in order, for evaluation in one process.

  Args:
    config: gives tokenizer, T and W.
    pattern: files, as for `open_documents`.
    rows: B.

  Returns:
    An iterable of dicts of NumPy int32 arrays [B, T] that hold `document_index` too:
    `batches.source[i].id` is the name of document i.

  Raises:
    ValueError: if the files or the tokenizer do not fit.
  """
  return _open(config, pattern, rows=rows, shuffle=False, epochs=1, with_document_index=True)


def make_tokenize(config: Any) -> Callable[[str], np.ndarray]:
  """MaxText's tokenizer of `config`, from text to int32 ids, each checked against vocab_size."""
  tokenizer = maxtext_tokenizer.build_tokenizer(
    config.tokenizer_path,
    config.tokenizer_type,
    config.add_bos,
    config.add_eos,
    config.hf_access_token,
  )

  def tokenize(text: str) -> np.ndarray:
    ids = np.asarray(tokenizer.encode(text))
    if ids.size and ids.max() >= config.vocab_size:
      raise ValueError(
        f"Tokenizer {config.tokenizer_path} gives the id {ids.max()} but vocab_size is "
        f"{config.vocab_size}; set vocab_size to the size of the tokenizer."
      )
    if ids.size and ids.min() < 0:
      raise ValueError(
        f"Tokenizer {config.tokenizer_path} gives the id {ids.min()} because it has no such "
        "special token; set add_bos=false or add_eos=false."
      )
    return ids.astype(np.int32)

  return tokenize


def _open(config: Any, pattern: str, **how: Any) -> StickyRows:
  for key, unset, reason in _UNUSED_KEYS:
    if getattr(config, key) not in unset:
      raise ValueError(
        f"{key}={getattr(config, key)} does not work with documents read in sticky rows, "
        f"{reason}; leave it at {unset[0]!r}."
      )
  source = open_documents(pattern)
  tokenize = make_tokenize(config)
  # MaxText takes an error while training for the end of the data and exits with success; so
  # a tokenizer that does not fit has to fail here.
  tokenize(source[0].text)
  return StickyRows(
    source,
    tokenize,
    segment_length=config.max_target_length,
    window_length=config.melodi_window_length,
    seed=config.data_shuffle_seed,
    **how,
  )


def _rows_per_process(key: str, loaded: int, used: int, processes: int) -> int:
  """B of one process; MaxText loads more rows than it uses when `key` is below 1."""
  if loaded != used:
    raise ValueError(
      f"{loaded} rows are loaded but only {used} are used, so the documents of the others would "
      f"be lost; set {key} to a whole number."
    )
  return loaded // processes
