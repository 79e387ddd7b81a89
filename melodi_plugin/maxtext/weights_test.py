"""Parameters that memory adds are told from the stock model's by their path, and nothing else."""

import fsspec
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from melodi_plugin.maxtext import weights
from melodi_plugin.training.parameter_paths import name_of

STOCK = ("decoder/layers/mlp/wi_0/kernel", "decoder/decoder_norm/scale", "token_embedder/embedding")
MEMORY = ("decoder/memory_layers_0_to_1/offset", "decoder/summary_embeddings")


def state_of(names):
  """A model's state with a parameter at every path."""
  flat = [(tuple(name.split("/")), nnx.Param(jnp.ones((2, 3)))) for name in names]
  return nnx.from_flat_state(flat)


def names_of(state):
  return {name_of(path) for path, _ in nnx.to_flat_state(state)}


def saved(folder, names, *, nested: bool) -> str:
  """A checkpoint as MaxText's trainer nests it, or as its other commands do."""
  import orbax.checkpoint as ocp

  tree = state_of(names).to_pure_dict()
  tree = {"params": {"params": tree} if nested else tree}
  ocp.PyTreeCheckpointer().save(folder / "items", tree)
  return str(folder / "items")


@pytest.mark.parametrize("names, expected", [(STOCK, False), (STOCK + MEMORY, True)])
def test_model_has_memory_if_one_of_its_parameters_is_memorys(names, expected):
  assert weights.has_memory(state_of(names)) == expected


def test_what_is_no_model_state_has_no_memory():
  assert not weights.has_memory({"decoder": {"summary_embeddings": jnp.ones(2)}})


def test_without_memory_is_the_stock_model():
  assert names_of(weights.without_memory(state_of(STOCK + MEMORY))) == set(STOCK)


@pytest.mark.parametrize("nested", [True, False])
def test_shapes_of_a_checkpoint_by_name(tmp_path, nested):
  path = saved(tmp_path, STOCK + MEMORY, nested=nested)
  assert weights.stored_shapes(path) == dict.fromkeys(STOCK + MEMORY, (2, 3))
  assert weights.stored_shapes(str(tmp_path)) == weights.stored_shapes(path)  # of its folder too
  assert not weights.is_stock(path)


def test_checkpoint_without_memory_is_a_stock_one(tmp_path):
  assert weights.is_stock(saved(tmp_path, STOCK, nested=True))


@pytest.mark.parametrize("what", ["nowhere", "a file", "no parameters"])
def test_what_is_no_checkpoint_is_refused_in_a_sentence(tmp_path, what):
  path = tmp_path / "it"
  if what == "a file":
    path.write_text("")
  elif what == "no parameters":
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save(path, {"opt_state": jnp.ones(2)})
  with pytest.raises(
    ValueError, match="is not a checkpoint of MaxText's parameters, or was not"
  ) as error:
    weights.stored_shapes(str(path))
  assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_arrays_come_back_by_name(tmp_path):
  path = saved(tmp_path, STOCK + MEMORY, nested=True)
  found = weights.read_arrays(path, MEMORY)
  assert {name: leaf.tolist() for name, leaf in found.items()} == dict.fromkeys(
    MEMORY, jax.device_get(jnp.ones((2, 3))).tolist()
  )


@pytest.mark.parametrize("folder", ["plain", "with [1]", "a,b", "a*"])
def test_checkpoints_are_found_whatever_their_run_is_called(tmp_path, folder):
  (tmp_path / "with 1" / "checkpoints" / "7" / "items").mkdir(parents=True)  # the pattern's
  checkpoints = tmp_path / folder / "checkpoints"
  for name in ("10", "9", "9.broken", "11.orbax-checkpoint-tmp"):
    (checkpoints / name / "items").mkdir(parents=True)
  expected = [str(checkpoints / step / "items") for step in ("9", "10")]
  assert weights.run_checkpoints(str(checkpoints)) == expected
  for items in expected:
    assert weights.find_checkpoints(items) == [items]
    assert weights.find_checkpoints(items.removesuffix("/items")) == [items]


def test_step_in_a_bucket_is_whole_once_a_file_says_so(monkeypatch):
  files = fsspec.filesystem("memory")
  run = "/bucket/whole_once/checkpoints"
  steps = ("3/items/d", "3/commit_success.txt", "6/items/d", "6/items/commit_success.txt")
  for name in (*steps, "9/items/d"):
    files.pipe_file(f"{run}/{name}", b"")
  monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (files, url.removeprefix("gs:/")))
  whole = [f"memory://{run}/{step}/items" for step in (3, 6)]
  assert weights.run_checkpoints(f"gs:/{run}") == whole
  assert weights.find_checkpoints(f"gs:/{run}/?") == whole
  # Who names one has copied it there, perhaps.
  assert weights.find_checkpoints(f"gs:/{run}/9/items") == [f"memory://{run}/9/items"]
  with pytest.raises(ValueError, match=r"no checkpoint that matches gs://.*\[9\]/items was comp"):
    weights.find_checkpoints(f"gs:/{run}/[9]/items")


def test_what_was_not_written_to_its_end_is_told_from_what_is_not_there(tmp_path):
  (tmp_path / "3.broken" / "items").mkdir(parents=True)
  with pytest.raises(ValueError, match=r"no checkpoint that matches .*/items was completed; give"):
    weights.run_checkpoints(str(tmp_path))
  with pytest.raises(ValueError, match=r"there is no checkpoint .*; give <run>/checkpoints"):
    weights.run_checkpoints(str(tmp_path / "nowhere"))


def test_patterns_are_joined_by_commas(tmp_path):
  for run in "ab":
    (tmp_path / run / "checkpoints" / "3" / "items").mkdir(parents=True)
  paths = [f"{tmp_path}/{run}/checkpoints/3/items" for run in "ab"]
  joined = f"{tmp_path}/a/checkpoints/*/items, {tmp_path}/[b]/checkpoints/3"
  assert weights.find_checkpoints(joined) == paths
