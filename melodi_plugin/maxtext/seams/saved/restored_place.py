"""Goes on where a checkpoint was in the documents, also with other processes, or more rows."""

from typing import Any

from absl import logging
from etils import epath

from melodi_plugin.data.place import (
  START_ANEW,
  FromRows,
  Place,
  StateMismatch,
  in_batch_of,
  read_place,
)
from melodi_plugin.maxtext.pipeline import EndTogether


def restore_place(config: Any, iterator: EndTogether, folder: epath.Path) -> FromRows | None:
  """Goes on where the documents stood when the files of `folder` were saved, one per process.

  The number of processes may have changed since: a row has the same documents everywhere.  The rows
  may have become more, by a whole factor, where documents are read for ever.

  Returns:
    Which rows go on; None if the documents start anew, and memory has to be empty.

  Raises:
    BrokenPlace: if the saved place is damaged.
    StateMismatch: if there is no saved place, or it does not fit this run, and the config does not
      say that the documents may start anew.
    DocumentsError: if the document of a row cannot be read now.
  """
  try:
    place, rows = in_batch_of(_saved_place(folder), config.global_batch_size_to_train_on)
    iterator.local_iterator.set_state(place)
  except StateMismatch as problem:
    if not config.melodi_restart_documents:
      raise
    logging.warning("%s  Documents start anew, with empty memory.", problem)
    iterator.reset()
    return None
  if begin := sum(row is None for row in rows):
    logging.warning(
      "The batch has more rows than the checkpoint: %d go on with their documents and memory, and "
      "%d begin documents.",
      len(rows) - begin,
      begin,
    )
  return rows


def _saved_place(folder: epath.Path) -> Place:
  if (place := read_place(folder)) is None:
    raise StateMismatch(
      f"{folder}, where this run was in its documents, is missing, so they would be read from the "
      f"start; copy it back, or {START_ANEW}."
    )
  return place
