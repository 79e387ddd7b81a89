"""What a row has read, in one file: saved, copied, and gone on from at any token.

A file holds one row of `core.decoding.OpenRows`, every array under the number of its layer, as in
layer.3.recall.long.key; so it does not depend on how layers are scanned, nor on the devices.
"""

import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic_core import to_jsonable_python

from melodi_plugin.checkpoints import memory_format
from melodi_plugin.checkpoints.memory_format import (
  BelongsElsewhere,
  Contents,
  Metadata,
  Stored,
  type_name,
)
from melodi_plugin.config.layers import Run
from melodi_plugin.config.model import MelodiConfig
from melodi_plugin.core.decoding import OpenRows

# A setting that a version before did not have, it had as its default is.
_DEFAULTS = to_jsonable_python(
  {
    field.name: field.default
    for field in dataclasses.fields(MelodiConfig)
    if field.default is not dataclasses.MISSING
  }
)


class Identity(NamedTuple):
  """What must be the same where a row is saved and where it is loaded.

  Attributes:
    model: `fingerprint.of_model`.
    tokenizer: `Tokenizer.fingerprint`.
    settings: what else decides how the arrays are read, flat; values of JSON, tuples, dataclasses.
      Whether layers are scanned does not belong to them.
  """

  model: str
  tokenizer: str
  settings: dict[str, Any]


class SavedRow(NamedTuple):
  """A row between two tokens, as arrays of the host.

  Attributes:
    rows: a batch of one row; `recall` is None if it was left out, and must be made of `memory`.
    tokens_read: of the document.
    pending: ids of the tokens that come next, and have not been read.
    prefix: hash of the ids that have been read.
    title: for people.
    created: when it was saved (ISO 8601); "" before.
  """

  rows: OpenRows
  tokens_read: int
  pending: tuple[int, ...]
  prefix: str
  title: str = ""
  created: str = ""


def save(
  path: str, saved: SavedRow, identity: Identity, runs: Sequence[Run], *, compact: bool = False
) -> None:
  """Writes a row; an interrupted call leaves the file that was there.

  Args:
    path: may be remote; its folder is created if need be.
    saved: the row.
    identity: of the model that has read it.
    runs: the layers of every section.
    compact: leave out keys and values of memory.  They can be made anew, but not bit for bit: how
      many rows are projected at once changes the last bits (about 1e-6; less than 1e-5 in what
      comes of it).
  """
  rows = saved.rows._replace(recall=None) if compact else saved.rows
  arrays: dict[str, np.ndarray] = {}
  for path_in_rows, leaf in _leaves(rows):
    for y, name in enumerate(_names(path_in_rows, runs)):
      if name in arrays:
        raise ValueError(f"two arrays of memory have the name {name}; rename one of them.")
      arrays[name] = np.asarray(leaf)[y].reshape(_shape(leaf))
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  said = dict(
    model=identity.model,
    tokenizer=identity.tokenizer,
    settings=to_jsonable_python(identity.settings),
    tokens_read=saved.tokens_read,
    held=int(saved.rows.held[0]),
    count=int(saved.rows.count[0]),
    pending=[int(token) for token in saved.pending],
    prefix=saved.prefix,
    title=saved.title,
    created=saved.created or now,
    writer=f"melodi-plugin {importlib.metadata.version('melodi-plugin')}",
    compact=rows.recall is None,
  )
  memory_format.write(path, arrays, said)


def load(path: str, identity: Identity, like: OpenRows, runs: Sequence[Run]) -> SavedRow:
  """Reads a row, every bit as it was saved.

  Args:
    path: may be remote.
    identity: of the model that is to go on.
    like: shapes and types of one row of it, as arrays or `jax.ShapeDtypeStruct`.
    runs: the layers of every section; others than at `save` if layers are scanned otherwise.

  Raises:
    ValueError: if the file is not what `save` wrote; BelongsElsewhere, if it belongs to something
      else.
  """
  contents = memory_format.read(path)
  metadata = contents.metadata
  check_identity(path, metadata, identity)
  if metadata.compact:
    like = like._replace(recall=None)
  _check_shapes(path, contents, like, runs)

  def restore(path_in_rows: Any, leaf: Any) -> np.ndarray:
    array = np.zeros(leaf.shape, leaf.dtype)
    for y, name in enumerate(_names(path_in_rows, runs)):
      _put(array, y, contents.arrays[name])
    return array

  rows = jax.tree_util.tree_map_with_path(restore, like._replace(held=None, count=None))
  held, count = (
    np.full(leaf.shape, number, leaf.dtype)
    for leaf, number in ((like.held, metadata.held), (like.count, metadata.count))
  )
  return SavedRow(
    rows._replace(held=held, count=count),
    metadata.tokens_read,
    metadata.pending,
    metadata.prefix,
    metadata.title,
    metadata.created,
  )


def check_identity(path: str, there: Metadata, here: Identity) -> None:
  """Raises BelongsElsewhere if what a file says of itself belongs to something else."""
  settings = json.loads(json.dumps(to_jsonable_python(here.settings)))
  for key in [*settings, *there.settings]:
    both = (found.get(key, _DEFAULTS.get(key)) for found in (settings, there.settings))
    own, other = map(json.dumps, both)
    if own != other:
      raise BelongsElsewhere(
        f"{path} was written with {key}={other}, and here {key}={own}; use the configuration that "
        "it was written with, or read the document again."
      )
  for what, own, other in (
    ("model", here.model, there.model),
    ("tokenizer", here.tokenizer, there.tokenizer),
  ):
    if own != other:
      raise BelongsElsewhere(
        f"{path} was written with another {what}: its fingerprint is {other}, and here {own}; use "
        f"the {what} that it was written with, or read the document again."
      )


def _leaves(rows: OpenRows) -> list[tuple[Any, Any]]:
  """The arrays that sections have, with their paths: layers first, then the row."""
  return jax.tree_util.tree_flatten_with_path(rows._replace(held=None, count=None))[0]


def _names(path: Any, runs: Sequence[Run]) -> list[str]:
  """Of one leaf, by layer; its path is that of a field, then the section."""
  field, section, *rest = path
  name = jax.tree_util.keystr((field, *rest), simple=True, separator=".")
  run = runs[section.idx]
  return [f"layer.{run.first + y}.{name}" for y in range(run.length)]


def _shape(leaf: Any) -> tuple[int, ...]:
  """Of one layer, without the row: slots first; one slot for what is a single number."""
  return tuple(leaf.shape[2:]) or (1,)


def _put(array: np.ndarray, y: int, stored: Stored) -> None:
  """Writes layer y of an array of one row."""
  slots = np.frombuffer(stored.data, array.dtype)
  if slots.size:
    slots = slots.reshape(-1, *_shape(array)[1:])
    array[y].reshape(_shape(array))[stored.first : stored.first + len(slots)] = slots


def _check_shapes(path: str, contents: Contents, like: OpenRows, runs: Sequence[Run]) -> None:
  here = {
    name: (type_name(leaf.dtype), _shape(leaf))
    for path_in_rows, leaf in _leaves(like)
    for name in _names(path_in_rows, runs)
  }
  there = {name: (array.dtype, array.shape) for name, array in contents.arrays.items()}
  for name in sorted(here.keys() | there.keys()):
    own, other = (
      " ".join(map(str, found[name])) if name in found else "missing" for found in (here, there)
    )
    if own != other:
      raise BelongsElsewhere(
        f"{path} does not fit the model: {name} is {other} in the file and {own} in the model; use "
        "the configuration that it was written with."
      )
