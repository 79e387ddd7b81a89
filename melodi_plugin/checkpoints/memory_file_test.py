"""Rows in files: every bit comes back."""

import functools
import os

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from melodi_plugin.checkpoints import memory_format
from melodi_plugin.checkpoints.memory_file import SavedRow, load, save
from melodi_plugin.checkpoints.memory_format import describe
from melodi_plugin.config.layers import LayerSpec, Run
from melodi_plugin.core import decoding
from melodi_plugin.core.memory import LayerMemory
from melodi_plugin.core.stack import Section
from melodi_plugin.output import files
from melodi_plugin.systems.table import make_cell
from melodi_plugin.testing.files.memory import HERE, RUNS, SAVED, bits, rows_of, save_in
from melodi_plugin.testing.tiny import random_layers, random_memory, tiny_config


@pytest.fixture(name="path")
def _path(tmp_path):
  return save_in(tmp_path)


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
