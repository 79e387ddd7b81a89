"""Memory files that are not whole, or belong to something else, are refused in a sentence."""

import os

import jax
import numpy as np
import pytest
import safetensors.numpy

from melodi_plugin.checkpoints import memory_format
from melodi_plugin.checkpoints.memory_file import load, save
from melodi_plugin.core.decoding import OpenRows
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.output import files
from melodi_plugin.testing.files.memory import HERE, RUNS, SAVED, rows_of, save_in


@pytest.fixture(name="path")
def _path(tmp_path):
  return save_in(tmp_path)


def refused(path, identity=HERE, like=SAVED.rows, runs=RUNS):
  """The sentence."""
  with pytest.raises(ValueError) as error:
    load(path, identity, like, runs)
  sentence = str(error.value)
  assert path in sentence and sentence.endswith(".") and "\n" not in sentence
  return sentence


def test_cut_anywhere_it_is_refused(tmp_path):
  """At every byte of the header, and every 4 KiB of the arrays."""
  path, runs = str(tmp_path / "a.memory"), RUNS[:1]
  memory = [LayerMemory(np.ones((1, 1, 5_000, 6), np.float32), ())]
  rows = OpenRows(memory, None, [()], *SAVED.rows[3:])
  save(path, SAVED._replace(rows=rows), HERE, runs)
  content = files.read_file(path)
  header = 8 + int.from_bytes(content[:8], "little")
  cuts = {*range(header + 1), *range(0, len(content), 4096), len(content) - 1}
  assert header < 1_500 < 120_000 < len(content)
  for cut in sorted(cuts, reverse=True):
    os.truncate(path, cut)
    sentence = refused(path, like=rows, runs=runs)
    assert ("was cut off: it has" if cut > 8 else "is not a memory file") in sentence, cut
  with open(path, "wb") as file:
    file.write(content + b"\0")
  assert "is damaged" in refused(path, like=rows, runs=runs)


def test_one_flipped_bit_anywhere_is_refused(path):
  content, rng = files.read_file(path), np.random.default_rng(0)
  header = 8 + int.from_bytes(content[:8], "little")
  places = [*rng.integers(0, header, 50), *rng.integers(header, len(content), 50)]
  for place in places:
    changed = bytearray(content)
    changed[place] ^= 1 << int(rng.integers(8))
    with open(path, "wb") as file:
      file.write(changed)
    sentence = refused(path)
    if place >= header:
      assert f"{path} is damaged: its digest is that of other bytes" in sentence


def test_what_is_no_memory_file(tmp_path):
  path = str(tmp_path / "a.memory")
  other = safetensors.numpy.save({"a": np.ones(3)}, {"format": "pt"})
  for content in (b"", b"text", b"{" * 500, os.urandom(500), other, _header('{"a": ' * 20_000)):
    with open(path, "wb") as file:
      file.write(content)
    assert "is not a memory file, or its header is damaged; give one that " in refused(path)
  missing = str(tmp_path / "missing")
  assert refused(missing) == f"cannot read {missing}: there is no such file."


def _header(text):
  return len(text).to_bytes(8, "little") + text.encode()


def test_newer_format(path, monkeypatch):
  monkeypatch.setattr(memory_format, "_VERSION", 2)
  save(path, SAVED, HERE, RUNS)
  monkeypatch.undo()
  assert "has the format melodi-memory/2, and this version of melodi_plugin reads up to" in refused(
    path
  )


@pytest.mark.parametrize(
  "said",
  [
    {"pending": "[1099511627776]"},
    {"held": "many"},
    {"settings": "[]"},
    {"trimmed": '{"layer.0.memory.short": [1, 2]}'},
    {"count": ""},
  ],
  ids=lambda said: next(iter(said)),
)
def test_header_that_is_not_ours_under_a_right_digest(path, monkeypatch, said):
  """As somebody might make it by hand, to break a server."""
  with monkeypatch.context() as patch:
    patch.setattr(
      memory_format, "save", lambda arrays, own: safetensors.numpy.save(arrays, own | said)
    )
    save(path, SAVED, HERE, RUNS)
  assert "is damaged" in refused(path)


@pytest.mark.parametrize(
  "changes, sentence",
  [
    ({"model": "cc"}, "another model: its fingerprint is aa11, and here cc; use the model that"),
    ({"tokenizer": "cc"}, "another tokenizer: its fingerprint is bb22, and here cc; use the tok"),
    ({"settings": HERE.settings | {"layers": (1,)}}, "layers=[1, 2], and here layers=[1]; use the"),
    (
      {"settings": HERE.settings | {"new": 1}, "model": "cc"},
      "new=null, and here new=1;",
    ),
    (
      {"settings": {"window_length": 8, "layers": [1, 2]}},
      "offset=-Infinity, and here off",
    ),
  ],
)
def test_memory_of_something_else(path, changes, sentence):
  assert f"{path} was written with {sentence}" in refused(path, HERE._replace(**changes))


def test_arrays_that_do_not_fit(path):
  def change(where):
    rows = rows_of()
    return jax.tree_util.tree_map_with_path(
      lambda at, leaf: leaf[:, :, 1:].astype(np.float16) if where in str(at) else leaf, rows
    )

  sentence = refused(path, like=change("queue"))
  name = "layer.1.memory.long.queue"
  assert f"does not fit the model: {name} is F32 (9, 6) in the file and F16 (8, 6) in" in sentence
  sentence = refused(path, like=SAVED.rows._replace(opened=[()] * 3))
  assert "layer.0.opened.below is F32 (2, 6) in the file and missing in the model" in sentence


def test_arrays_of_one_name_are_not_saved(tmp_path):
  rows = rows_of()
  twice = {"a.b": np.ones((1, 1, 2)), "a": {"b": np.ones((1, 1, 2))}}
  rows.memory[0] = LayerMemory(rows.memory[0].short, twice)
  with pytest.raises(ValueError, match=r"two arrays of memory have the name layer.0.memory.long.a"):
    save(str(tmp_path / "a.memory"), SAVED._replace(rows=rows), HERE, RUNS)
  assert not os.listdir(tmp_path)
