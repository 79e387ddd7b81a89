"""Sticky batch rows for a MaxText config.

`make_train_iterator` and `make_eval_iterator` have the signature of MaxText's
`make_grain_{train,eval}_iterator` and take their place; `dataset_type` stays `grain`, because
MaxText saves and restores the iterator only under that name.  `make_document_batches` is for
evaluation that counts the loss per document.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from grain.sources import RandomAccessDataSource
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from maxtext.input_pipeline.multihost_dataloading import MultiHostDataLoadIterator
from maxtext.utils import maxtext_utils

from melodi_plugin.config.systems import is_melodi
from melodi_plugin.data.chat import tokenizer_of
from melodi_plugin.data.documents import Document, DocumentSource, Fields, open_documents
from melodi_plugin.data.place import difference
from melodi_plugin.data.read_ahead import Workers
from melodi_plugin.data.rows import StickyRows
from melodi_plugin.data.skipped import SkippedDocuments

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

_FINGERPRINT_BYTES = 1024  # of the rows' fingerprint as JSON, at most


def make_train_iterator(config: Any, mesh: Mesh, process_indices: list[int]) -> "EndTogether":
  """Training batches of `config.grain_train_files`.

  MaxText's default `num_epoch: 1` repeats the documents for as long as `steps` asks, with a log
  line at every new epoch; a larger `num_epoch` ends the training after that many.

  Returns:
    An iterator of dicts of global int32 arrays [B, T], as described at `StickyRows`.

  Raises:
    ValueError: if the files, the tokenizer or another key do not fit.
  """
  del process_indices  # all of them, since expansion_factor_real_data is refused
  rows = _rows(
    "per_device_batch_size", config.global_batch_size_to_load, config.global_batch_size_to_train_on
  )
  source = open_source(config, config.grain_train_files, config.train_data_columns)
  if len(source) < rows:
    logging.warning(
      "%d documents for a batch of %d rows: some rows read the same document at the same time.",
      len(source),
      rows,
    )
  if config.use_sft and not config.sft_train_on_completion_only:
    logging.warning(
      "The loss counts all tokens of conversations; with sft_train_on_completion_only=true it "
      "counts answers only."
    )
  dataset = _make_rows(
    config,
    source,
    rows=rows,
    shuffle=config.enable_data_shuffling,
    epochs=config.num_epoch if config.num_epoch > 1 else None,
    local_rows=local_rows(mesh, rows),
    workers=Workers(_worker_count(config.grain_worker_count), config.grain_num_threads),
    segments_alone=not is_melodi(config),
  )
  return EndTogether(dataset, mesh)


def make_eval_iterator(config: Any, mesh: Mesh, process_indices: list[int]) -> "EndTogether":
  """As `make_train_iterator`, of `config.grain_eval_files`, once and in the order of the files."""
  del process_indices
  rows = _rows(
    "eval_per_device_batch_size",
    config.global_batch_size_to_load_eval,
    config.global_batch_size_to_eval_on,
  )
  dataset = _make_rows(
    config,
    open_source(config, config.grain_eval_files, config.eval_data_columns),
    rows=rows,
    shuffle=False,
    epochs=1,
    local_rows=local_rows(mesh, rows),
    workers=Workers(_worker_count(config.grain_worker_count_eval), config.grain_num_threads_eval),
    segments_alone=not is_melodi(config),
  )
  return EndTogether(dataset, mesh)


def make_document_batches(
  config: Any, documents: str | RandomAccessDataSource[Document], *, rows: int
) -> StickyRows:
  """Batches that read all `documents` once, with the rows of this process.

  For a stock decoder every document begins a segment, so that what is said of it does not depend
  on the documents before it.

  Every token counts as a target, also in conversations: who reads the scores chooses.

  Args:
    config: gives tokenizer, T and W.
    documents: files, as for `open_documents`, or the documents themselves.
    rows: B at most: more rows than documents would stay empty.

  Returns:
    An iterable of dicts of NumPy int32 arrays [R, T] that hold `document_index` too:
    `batches.source[i].id` is the name of document i, and `batches.order.rows` is B.

  Raises:
    ValueError: if the files or the tokenizer do not fit.
  """
  if isinstance(documents, str):
    documents = open_source(config, documents, config.eval_data_columns)
  segment = tokens_per_batch(config)
  rows = _rows_with_documents(rows, len(documents))
  several = jax.process_count() > 1
  return _make_rows(
    config,
    documents,
    rows=rows,
    shuffle=False,
    epochs=1,
    answers_only=False,
    local_rows=local_rows(maxtext_utils.get_mesh_from_config(config), rows) if several else None,
    workers=Workers(_worker_count(config.grain_worker_count_eval), config.grain_num_threads_eval),
    with_document_index=True,
    segment_length=segment,
    window_length=config.melodi_window_length if is_melodi(config) else segment,
  )


def tokens_per_batch(config: Any) -> int:
  """Tokens of a row that one batch of `make_document_batches` holds: T.

  Half of it where a stock decoder reads the tokens before them again.

  Raises:
    ValueError: if T is odd, then.
  """
  segment = int(config.max_target_length)
  if is_melodi(config) or not config.melodi_overlapping_chunks:
    return segment
  if segment % 2:
    raise ValueError(
      f"melodi_overlapping_chunks=true reads chunks that overlap by half, and max_target_length="
      f"{segment} is odd; make it even."
    )
  return segment // 2


def local_rows(mesh: Mesh, rows: int) -> list[int]:
  """Rows of the whole batch that belong to this process's devices, in the order of its batch."""
  sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  places = sharding.devices_indices_map((rows,))
  return [row for device in mesh.local_devices for row in range(rows)[places[device][0]]]


class EndTogether(MultiHostDataLoadIterator):
  """Global batches of `StickyRows`; no process ends before the last one has.

  A process whose documents have ended goes on with padding, which leaves memory as it is.
  """

  def __init__(self, dataset: StickyRows, mesh: Mesh):
    _check_same_everywhere(dataset)
    self._may_end = dataset.order.epochs is not None and jax.process_count() > 1
    super().__init__(dataset, mesh, generate_padding_batch=self._may_end)
    self.reset()

  def reset(self) -> None:
    """Starts the documents anew."""
    super().reset()
    self.last_local_data = self.local_iterator.empty_batch()  # what padding looks like

  def _get_next_batch_sharded(self) -> Any:
    batch = super()._get_next_batch_sharded()
    if self._may_end and np.all(multihost_utils.process_allgather(np.asarray(self.out_of_data))):
      raise StopIteration
    return batch


def _check_same_everywhere(dataset: StickyRows) -> None:
  """Raises ValueError if another process reads other documents, or reads them otherwise."""
  if jax.process_count() == 1:
    return
  own = json.dumps(dataset.fingerprint()).encode()
  padded = np.zeros(_FINGERPRINT_BYTES, np.uint8)
  padded[: len(own)] = list(own)
  found = [bytes(row).rstrip(b"\0") for row in multihost_utils.process_allgather(padded)]
  if problem := difference([json.loads(text) for text in found]):
    raise ValueError(
      f"The processes of this run do not have the same {problem}; give all of them the same files "
      "and configuration."
    )


def open_source(config: Any, pattern: str, columns: Sequence[str]) -> DocumentSource:
  """The documents of `pattern`, as `config` says how to read them.

  Raises:
    ValueError: if the files or a key do not fit.
  """
  for key, unset, reason in _UNUSED_KEYS:
    if getattr(config, key) not in unset:
      raise ValueError(
        f"{key}={getattr(config, key)} does not work with documents read in sticky rows, "
        f"{reason}; leave it at {unset[0]!r}."
      )
  if len(columns) != 1:
    raise ValueError(
      f"train_data_columns and eval_data_columns name the one field that holds the text of a "
      f"document, or its messages with use_sft, not {list(columns)}."
    )
  return open_documents(
    pattern,
    Fields(text=columns[0], id=config.melodi_id_field),
    max_bytes=config.melodi_max_document_bytes,
    skip_broken=config.melodi_skip_broken_documents,
    conversations=config.use_sft,
  )


def _make_rows(
  config: Any,
  source: RandomAccessDataSource[Document],
  *,
  epochs: int | None,
  answers_only: bool | None = None,
  **how: Any,
) -> StickyRows:
  tokenize = tokenizer_of(config, answers_only=answers_only)
  on_broken = None
  if config.melodi_skip_broken_documents:
    on_broken = SkippedDocuments(_skipped_path(config), getattr(source, "broken", ()))
  lengths = {
    "segment_length": config.max_target_length,
    "window_length": config.melodi_window_length,
  }
  return StickyRows(
    source,
    tokenize,
    seed=config.data_shuffle_seed,
    epochs=epochs,
    sizes=None if epochs is None else _sizes(source),
    on_broken=on_broken,
    memory=f"{config.melodi_cache_tokens}, {config.melodi_sink_tokens}, "
    f"{str(config.melodi_long_term_pairs).lower()}",
    **(lengths | how),
  )


def _sizes(source: RandomAccessDataSource[Document]) -> np.ndarray:
  if isinstance(source, DocumentSource):
    return source.sizes()
  return np.asarray([len(source[i].text) for i in range(len(source))])


def _skipped_path(config: Any) -> epath.Path:
  process = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
  folder = epath.Path(config.base_output_directory) / config.run_name
  return folder / f"skipped_documents{process}.jsonl"


def _rows(key: str, loaded: int, used: int) -> int:
  """The number of rows B; MaxText loads more than it uses when `key` is below 1."""
  if loaded != used:
    raise ValueError(
      f"{loaded} rows are loaded but only {used} are used, so the documents of the others would "
      f"be lost; set {key} to a whole number."
    )
  return loaded


def _rows_with_documents(rows: int, documents: int) -> int:
  """As many rows as there are documents, or a few more: as many on every device."""
  devices = jax.device_count()
  return rows if rows % devices else min(rows, -(-documents // devices) * devices)


def _worker_count(key: int) -> int:
  """How many processes tokenize; MaxText's -1 leaves the number to us."""
  return key if key >= 0 else max((os.cpu_count() or 1) // 4, 1)
