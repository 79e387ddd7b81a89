"""Rows in files: every bit comes back, and what is not whole or does not belong is refused."""

import functools
import os

import fsspec
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from melodi_plugin.checkpoints import memory_format
from melodi_plugin.checkpoints.memory_file import Identity, SavedRow, load, save
from melodi_plugin.checkpoints.memory_format import describe
from melodi_plugin.config.layers import LayerSpec, Run
from melodi_plugin.core import decoding
from melodi_plugin.core.cell import KeyValues, OpenWindow, Recall
from melodi_plugin.core.decoding import OpenRows
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.stack import Section
from melodi_plugin.output import files
from melodi_plugin.systems.table import make_cell
from melodi_plugin.testing.tiny import random_layers, random_memory, tiny_config

BF16 = ml_dtypes.bfloat16
SPECIAL = np.array([-0.0, np.nan, -np.nan, np.inf, 1e-45, -1e-45], np.float32)
HERE = Identity("aa11", "bb22", {"window_length": 8, "layers": (1, 2), "offset": -np.inf})
RUNS = (Run(LayerSpec(), 0, 1), Run(LayerSpec(), 1, 2), Run(LayerSpec(), 3, 1))


def layer(number, rng):
  """One row of one layer: layers 1 and 2 have a user's long-term memory, a tree of any types."""

  def draw(*shape, dtype=np.float32):
    return rng.normal(size=(1, *shape)).astype(dtype)

  def heads(tokens, seen):
    visible = (np.arange(tokens) >= tokens - seen)[None]
    key = draw(tokens, 2, 3, dtype=BF16)
    key[~visible] = 0
    return KeyValues(key, -key, visible)

  long = draw(0, 6)
  if number in (1, 2):
    queue = draw(9, 6)
    queue[:, :5] = 0
    queue[:, 6] = SPECIAL * (1 if number == 1 else -1)
    seen = rng.integers(-3, 3, size=(1, 4)).astype(np.int32)
    long = {"queue": queue, "more": [seen, np.array([number], np.int32), draw(0, 2), draw(3, 0)]}
  opened = OpenWindow(heads(5, 2), draw(2, 6), draw(1 if number else 0, 6))
  return LayerMemory(draw(2, 6), long), Recall(heads(2, 2), heads(9, 4) if number else ()), opened


def rows_of(runs=RUNS, seed=0):
  rng = np.random.default_rng(seed)
  layers = [layer(number, rng) for number in range(4)]

  def stacked(part):
    own = ([one[part] for one in layers[run.first : run.first + run.length]] for run in runs)
    return [jax.tree.map(lambda *leaves: np.stack(leaves), *group) for group in own]

  held, count = (np.array([number], np.int32) for number in (3, 2))
  return OpenRows(stacked(0), stacked(1), stacked(2), held, count)


SAVED = SavedRow(rows_of(), 26, (17, 4), "cafe", "Hamlet, »1603«", "2026-11-25T12:00:00+00:00")


@pytest.fixture(name="path")
def _path(tmp_path):
  path = str(tmp_path / "hamlet.memory")
  save(path, SAVED, HERE, RUNS)
  return path


def bits(tree):
  """Every leaf with its path, type and shape, as bytes."""
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  found = ((jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in flat)
  return {name: (leaf.dtype.name, leaf.shape, leaf.tobytes()) for name, leaf in found}


def test_every_bit_comes_back(path):
  loaded = load(path, HERE, SAVED.rows, RUNS)
  assert jax.tree.structure(loaded.rows) == jax.tree.structure(SAVED.rows)
  assert bits(loaded.rows) == bits(SAVED.rows)
  assert loaded[1:] == SAVED[1:]
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), SAVED.rows)
  assert bits(load(path, HERE, shapes, RUNS).rows) == bits(SAVED.rows)


def test_zeros_at_both_ends_are_left_out_and_negative_zeros_are_not(tmp_path):
  path, rows = str(tmp_path / "a.memory"), rows_of()
  queue = rows.memory[1].long["queue"]
  queue[:] = 0
  queue[0, 0, 3, 2], queue[0, 0, 5, 1] = -0.0, 1
  save(path, SAVED._replace(rows=rows), HERE, RUNS)
  arrays = memory_format.read(path).arrays
  kept = arrays["layer.1.memory.long.queue"]
  assert (kept.first, kept.shape, len(kept.data)) == (3, (9, 6), 3 * 6 * 4)
  assert len(arrays["layer.2.memory.long.queue"].data) == 0
  assert len(arrays["layer.1.recall.long.visible"].data) == 4  # bool
  assert bits(load(path, HERE, rows, RUNS).rows) == bits(rows)


def test_row_that_has_read_little_makes_a_small_file(tmp_path):
  """As large a memory as one likes: what is empty takes no bytes."""
  empty = jax.tree.map(np.zeros_like, rows_of())
  long = LayerMemory(np.zeros((1, 1, 2, 6), np.float32), np.zeros((1, 1, 1_000_000, 6), np.float32))
  long.long[..., -1, :] = 1
  rows = empty._replace(memory=[long, *empty.memory[1:]])
  save(str(tmp_path / "a.memory"), SAVED._replace(rows=rows), HERE, RUNS)
  found = describe(str(tmp_path / "a.memory"))
  assert found.parts["memory.long"] == 6 * 4 and sum(found.parts.values()) == 6 * 4
  assert found.size == os.path.getsize(tmp_path / "a.memory") < 8_000
  assert bits(load(str(tmp_path / "a.memory"), HERE, rows, RUNS).rows) == bits(rows)


def test_file_does_not_depend_on_how_layers_are_scanned(path, tmp_path):
  alone = [Run(LayerSpec(), number, 1) for number in range(4)]
  other, back = rows_of(alone), str(tmp_path / "b.memory")
  assert len(jax.tree.leaves(other)) > len(jax.tree.leaves(SAVED.rows))
  assert bits(load(path, HERE, other, alone).rows) == bits(other)
  save(back, SAVED._replace(rows=other), HERE, alone)
  assert bits(load(back, HERE, SAVED.rows, RUNS).rows) == bits(SAVED.rows)


def test_compact_file_leaves_recall_to_be_made_anew(path, tmp_path):
  compact = str(tmp_path / "b.memory")
  save(compact, SAVED, HERE, RUNS, compact=True)
  loaded = load(compact, HERE, SAVED.rows, RUNS)
  assert loaded.rows.recall is None
  assert bits(loaded.rows) == bits(SAVED.rows._replace(recall=None))
  parts = describe(path).parts
  assert describe(compact).parts == {
    name: size for name, size in parts.items() if not name.startswith("recall.")
  }
  save(compact, loaded, HERE, RUNS)  # which has no recall to be saved
  assert load(compact, HERE, SAVED.rows, RUNS).rows.recall is None


def test_interrupted_save_leaves_the_old_file(path, monkeypatch):
  old = files.read_file(path)

  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
      save(path, SAVED._replace(rows=rows_of(seed=1)), HERE, RUNS)
  assert files.read_file(path) == old and os.listdir(os.path.dirname(path)) == ["hamlet.memory"]


def test_path_may_be_remote():
  path = "memory://memory_file_test/a.memory"
  save(path, SAVED, HERE, RUNS)
  assert bits(load(path, HERE, SAVED.rows, RUNS).rows) == bits(SAVED.rows)
  fsspec.filesystem("memory").rm("memory_file_test", recursive=True)


def test_description_needs_no_model(path):
  metadata, parts, size = describe(path)
  assert (metadata.title, metadata.tokens_read, metadata.pending) == (SAVED.title, 26, (17, 4))
  assert (metadata.held, metadata.count, metadata.prefix, metadata.compact) == (3, 2, "cafe", False)
  assert metadata.settings == {"window_length": 8, "layers": [1, 2], "offset": -np.inf}
  assert parts["memory.short"] == 4 * 2 * 6 * 4 and sum(parts.values()) < size


def test_any_safetensors_reader_opens_it(path):
  with safetensors.safe_open(path, "np") as found:
    assert found.metadata()["format"] == "melodi-memory/1"
    np.testing.assert_array_equal(
      found.get_tensor("layer.3.memory.short"), SAVED.rows.memory[2].short[0, 0]
    )


# -- What is refused -------------------------------------------------------------------------------


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


# -- A model ---------------------------------------------------------------------------------------


def test_row_of_a_model_goes_on_as_if_it_had_never_stopped(tmp_path):
  """Saved in the middle of a window; also through a model whose layers are not scanned."""
  config, path = tiny_config(num_layers=4, short_term_layers=(0, 1, 2, 3)), tmp_path / "a.memory"
  rng, path = np.random.default_rng(0), str(path)
  layers = jax.tree.map(  # near 1 where they are norms
    lambda s: jnp.asarray((s.ndim == 1) + 0.4 * rng.normal(size=s.shape), s.dtype),
    jax.eval_shape(lambda: random_layers(config)),
  )
  x = jnp.asarray(rng.normal(size=(1, 12, config.emb_dim)), jnp.float32)
  summary = jnp.asarray(rng.normal(size=(4, config.emb_dim)), jnp.float32)

  def sections_of(runs):
    stacks = (layers[run.first : run.first + run.length] for run in runs)
    stacks = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *stack) for stack in stacks]
    return [
      Section(run, make_cell(config, run.spec), stack)
      for run, stack in zip(runs, stacks, strict=True)
    ]

  def begin(runs, memory):
    return decoding.begin(sections_of(runs), memory)

  @jax.jit
  def read(rows, x):
    """Two tokens, after closing the window of 8 if it is full."""
    rows = decoding.close(sections_of(runs), rows, summary, rows.count == 8)
    return decoding.context(sections_of(runs), rows, x, jnp.ones(x.shape[:2], bool))

  def go_on(rows, parts):
    found = []
    for part in parts:
      y, rows = read(rows, part)
      found.append(y)
    return found, rows

  parts, runs, alone = jnp.split(x, 6, axis=1), config.runs(True), config.runs(False)
  assert len(runs) < len(alone)
  memory = random_memory(config, 1)
  _, rows = go_on(jax.jit(functools.partial(begin, runs))(memory), parts[:3])
  saved = SavedRow(jax.device_get(rows), 22, (1,), "")
  save(path, saved, HERE, runs)
  want = go_on(rows, parts[3:])
  like = jax.eval_shape(functools.partial(begin, runs), memory)
  assert bits(go_on(load(path, HERE, like, runs).rows, parts[3:])) == bits(want)

  like = jax.eval_shape(functools.partial(begin, alone), memory)
  other = load(path, HERE, like, alone)
  save(path, other, HERE, alone)
  assert bits(load(path, HERE, rows, runs).rows) == bits(saved.rows)
