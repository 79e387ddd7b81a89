"""The saved place of rows in their documents: joined, checked, and compared with a run."""

import hashlib
import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from melodi_plugin.data.records import DocumentsError

Place = dict[str, Any]
# For every row that of a saved place which goes on as it, None for one that begins a document.
FromRows = Sequence[int | None]

# What the parts of a fingerprint are called where a user sets them.
_SET_BY = {
  "rows": "number of rows in the batch (per_device_batch_size times gradient_accumulation_steps "
  "times devices)",
  "window_length": "melodi_window_length",
  "shuffle": "enable_data_shuffling",
  "seed": "data_shuffle_seed",
  "epochs": "num_epoch",
  "documents": "number of documents",
  "files": "digest of the files",
  "sizes": "digest of the sizes of files and documents",
  "tokenizer": "digest of the tokenizer",
  "special_tokens": "melodi_special_tokens_in_text",
  "memory": "melodi_cache_tokens, melodi_sink_tokens or melodi_long_term_pairs",
}
# Versions before 0.2 did not save these.
_NEWER = ("sizes", "tokenizer", "special_tokens", "memory")

START_ANEW = "set melodi_restart_documents=true to start the documents anew with empty memory"


class StateMismatch(DocumentsError):  # noqa: N818, it is the state that does not match
  """A saved place in the documents that does not fit this run."""


class BrokenPlace(ValueError):  # noqa: N818, it is the place that is broken
  """A saved place in the documents that nobody can have saved like this."""


def sealed(fingerprint: Mapping[str, Any], rows: Mapping[str, Any]) -> Place:
  """A place as it is saved, with the digest of its parts."""
  place = {"fingerprint": dict(fingerprint), "rows": dict(rows)}
  return place | {"digest": _digest(place)}


def merge_states(states: Iterable[Any]) -> Place:
  """One place with the rows of all processes.

  Raises:
    BrokenPlace: if one of them is damaged.
  """
  merged: Place = {"fingerprint": {}, "rows": {}}
  for state in states:
    _check_whole(state)
    merged["fingerprint"] = state["fingerprint"]
    merged["rows"] |= state["rows"]
  return merged


def read_place(folder: epath.Path) -> Place | None:
  """What a checkpoint's folder `iter` holds, one file per process; None if there is none.

  Raises:
    BrokenPlace: if one of them is damaged.
    OSError: if a file cannot be read.
  """
  # Not with `glob`, which takes a '[' in the name of a folder for a pattern.
  files = folder.iterdir() if folder.exists() else ()
  paths = sorted(path for path in files if re.fullmatch(r"process_.+\.json", path.name))
  return merge_states(map(_read_json, paths)) if paths else None


def _read_json(path: epath.Path) -> Any:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise BrokenPlace(f"cannot be read ({error})") from None


def mismatch(
  state: Mapping[str, Any], fingerprint: Mapping[str, Any], local_rows: Sequence[int]
) -> str | None:
  """One sentence if a saved place does not fit rows of this fingerprint."""
  saved = state["fingerprint"]
  for name, value in fingerprint.items():
    if saved.get(name) != value and (name in saved or name not in _NEWER):
      return (
        f"The place in the documents was saved with another {_SET_BY[name]} ({saved.get(name)}) "
        f"than this run has ({value}); set it back, or {START_ANEW}."
      )
  missing = [row for row in local_rows if str(row) not in state["rows"]]
  if missing:
    return (
      f"The saved place in the documents lacks row {missing[0]}; a file of the checkpoint's folder "
      f"`iter` is missing, so restore it, or {START_ANEW}."
    )
  return None


def row_that_goes_on(place: Place, row: int, rows: int) -> int | None:
  """Which row of a place goes on as `row` of a batch of `rows`; None if that begins documents.

  A place that is read for ever, and `rows` a multiple of its own: row b of B reads every B-th
  document, and of `rows` every `rows`-th one of those.  So what a row has left is dealt out to all
  rows that have its number modulo B, and its last document is that of one of them.
  """
  own = place["fingerprint"]["rows"]
  k = place["rows"][str(row % own)]["k"]
  last = row % own + (k - 1) * own  # place of its last document in the order of all
  return row % own if k and last % rows == row else None


def grown(place: Place, rows: int) -> Place:
  """The same place in a batch of more rows, of which some begin documents.

  Every document that was not begun is still read once, and none again.
  """
  own = place["fingerprint"]["rows"]

  def of(row: int) -> dict[str, Any]:
    saved = place["rows"][str(row % own)]
    first = row % own + saved["k"] * own  # of what it has left, in the order of all
    k = max(0, -(-(first - row) // rows))
    if row_that_goes_on(place, row, rows) is None:
      return {"k": k, "offset": 0, "tokens": 0, "read": ""}
    return {**saved, "k": k}

  return {
    "fingerprint": {**place["fingerprint"], "rows": rows},
    "rows": {str(row): of(row) for row in range(rows)},
  }


def can_grow(place: Place, rows: int) -> bool:
  """Whether a place has a meaning in a batch of `rows` rows: more, a multiple, read for ever."""
  saved = place["fingerprint"]
  whole = all(str(row) in place["rows"] for row in range(saved["rows"]))
  return whole and saved["epochs"] is None and rows > saved["rows"] and rows % saved["rows"] == 0


def in_batch_of(place: Place, rows: int) -> tuple[Place, FromRows]:
  """The place for so many rows, where that is possible, and which rows go on."""
  if not can_grow(place, rows):
    return place, range(rows)
  return grown(place, rows), [row_that_goes_on(place, row, rows) for row in range(rows)]


def unchecked(state: Mapping[str, Any]) -> str | None:
  """One sentence if an older version has saved a place that can be checked only in part."""
  names = [_SET_BY[name] for name in _NEWER if name not in state["fingerprint"]]
  if not names:
    return None
  return (
    "The place in the documents was saved by an older version, so it could not be checked that "
    f"these are the same: {', '.join(names)}, text of the documents that rows are reading."
  )


def difference(fingerprints: Sequence[Mapping[str, Any]]) -> str | None:
  """What the fingerprints of several processes do not share, in a user's words."""
  for name in fingerprints[0]:
    if any(other[name] != fingerprints[0][name] for other in fingerprints):
      return _SET_BY[name]
  return None


def _check_whole(state: Any) -> None:
  try:
    place = {part: dict(state[part]) for part in ("fingerprint", "rows")}
    rows = [_numbers(**row) for row in place["rows"].values()]
  except (TypeError, KeyError, ValueError):
    raise BrokenPlace("is no place in documents") from None
  if state.get("digest", _digest(place)) != _digest(place):
    raise BrokenPlace("does not have the digest that was saved with it")
  if not all(k >= 0 and 0 <= offset <= tokens for k, offset, tokens in rows):
    raise BrokenPlace("has a row beyond the end of its document")


def _numbers(k: int, offset: int, tokens: int, read: str = "") -> tuple[int, int, int]:
  """The parts of a row's place; raises TypeError if they are others."""
  del read
  return operator.index(k), operator.index(offset), operator.index(tokens)


def _digest(place: Place) -> str:
  return hashlib.blake2b(json.dumps(place, sort_keys=True).encode(), digest_size=8).hexdigest()
