"""Adapter files: as written, and refused in one sentence where they are something else."""

import numpy as np
import pytest
import safetensors.numpy

from melodi_plugin.systems.stock import adapter

ARRAYS = {
  "decoder/memory_layers_0/gate": np.linspace(-1, 1, 7, dtype=np.float32),
  "decoder/summary_embeddings": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
}


def test_file_holds_every_bit_and_the_base(tmp_path):
  path = str(tmp_path / "new" / "own.safetensors")
  size = adapter.write(path, "abc", ARRAYS, rounded=False)
  assert size == len((tmp_path / "new" / "own.safetensors").read_bytes())
  found = adapter.read(path)
  assert found.base == "abc" and found.arrays.keys() == ARRAYS.keys()
  for name, leaf in ARRAYS.items():
    np.testing.assert_array_equal(found.arrays[name], leaf)


def test_rounded_file_is_smaller_and_nearly_the_same(tmp_path):
  sizes = [
    adapter.write(str(tmp_path / "own"), "abc", {"a": np.linspace(1, 2, 4096)}, rounded=rounded)
    for rounded in (False, True)
  ]
  assert sizes[0] - sizes[1] == pytest.approx(2 * 4096, abs=16)
  found = adapter.read(str(tmp_path / "own")).arrays["a"]
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, np.linspace(1, 2, 4096), rtol=2**-8)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"text that is no header at all",
    safetensors.numpy.save({"a": np.ones(3)}),
    safetensors.numpy.save({"a": np.ones(3)}, {"format": "melodi-memory/1"}),
    safetensors.numpy.save({"a": np.ones(3)}, {"format": "melodi-adapter/1", "base": "x"})[:-1],
  ],
  ids=["empty", "text", "no metadata", "another format", "cut off"],
)
def test_other_file_is_one_sentence(tmp_path, content):
  path = tmp_path / "other"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="other is not an adapter, or is damaged; give a file that"):
    adapter.read(str(path))


def test_missing_file_is_one_sentence(tmp_path):
  with pytest.raises(ValueError, match=r"cannot read .*nowhere: there is no such file\.$"):
    adapter.read(str(tmp_path / "nowhere"))
