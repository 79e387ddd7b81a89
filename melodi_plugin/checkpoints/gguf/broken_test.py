"""GGUF files whose header says what is not so: refused at once, with the file and the field."""

import contextlib
import random
import struct

import pytest

from melodi_plugin.checkpoints.gguf import importer
from melodi_plugin.checkpoints.gguf import tokenizer as gguf_tokenizer
from melodi_plugin.cli.main import main
from melodi_plugin.testing.files.gguf_file import random_tensors, write_gguf

TENSOR_COUNT, KEY_COUNT = 8, 16  # where they stand in a file


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
  path = tmp_path_factory.mktemp("gguf") / "a.gguf"
  tensors = random_tensors(tied=True)
  return write_gguf(path, tensors).read_bytes()


def _check(path) -> None:
  """All that stands before MaxText is asked."""
  file = importer.open_gguf(path)
  keys = importer.model_keys(file)
  gguf_tokenizer.build(file.header)
  importer.check_sizes(file, keys)


def _error(path, content: bytes) -> str:
  path.write_bytes(content)
  with pytest.raises(ValueError) as error, importer._naming(path):
    _check(path)
  assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
  return str(error.value)


def _changed(content: bytes, after: str | int, skip: int, value: bytes) -> bytes:
  """Puts `value` at a place, or `skip` bytes after a name."""
  at = after if isinstance(after, int) else content.index(after.encode()) + len(after)
  at += skip
  return content[:at] + value + content[at + len(value) :]


def _u32(value: int) -> bytes:
  return struct.pack("<I", value)


def _u64(value: int) -> bytes:
  return struct.pack("<Q", value)


# After a key come its type and its value; after an array's type, that of its elements and how many.
# After the name of a tensor come how many sizes it has, two sizes, its type and its place.
CASES = {
  "keys": (KEY_COUNT, 0, _u64(2**63), "reach beyond the end"),
  "tensors": (TENSOR_COUNT, 0, _u64(2**60), "reach beyond the end"),
  "type of a key": ("llama.block_count", 0, _u32(77), "np.uint32(77) is not a valid GGUFValueType"),
  "length": ("tokenizer.ggml.tokens", 8, _u64(2**50), "tokenizer.ggml.tokens: "),
  "elements": ("tokenizer.ggml.tokens", 4, _u32(99), "tokenizer.ggml.tokens: np.uint32(99) is not"),
  "string": ("tokenizer.ggml.model", 4, _u64(2**64 - 1), "tokenizer.ggml.model: "),
  "sizes": ("blk.0.attn_q.weight", 0, _u32(2**31), "blk.0.attn_q.weight: "),
  "size": ("blk.0.attn_q.weight", 4, _u64(2**62), "blk.0.attn_q.weight: a tensor of"),
  "type": ("blk.0.attn_q.weight", 20, _u32(999), "blk.0.attn_q.weight: np.uint32(999) is not"),
  "place": ("blk.0.attn_q.weight", 24, _u64(2**64 - 32), "blk.0.attn_q.weight: a tensor of"),
  "heads": ("llama.attention.head_count", 4, _u32(0), "head_count is '0' and not a whole number"),
  "layers": ("llama.block_count", 4, _u32(2**31), "llama.block_count is 2,147,483,648 and there"),
  "width": ("llama.embedding_length", 4, _u32(2**31), "the header says (262, 2147483648)"),
  "MLP": ("llama.feed_forward_length", 4, _u32(2**31), "blk.0.ffn_up.weight is (64, 32) and"),
  "rotation": ("llama.rope.freq_base", 4, b"\0\0\xc0\x7f", "freq_base is 'nan' and not a number"),
  "epsilon": ("layer_norm_rms_epsilon", 4, b"\0\0\x80\xff", "epsilon is '-inf' and not a number"),
  "token id": ("bos_token_id", 4, _u32(267), "bos_token_id is 267 and there are 262 tokens"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_header_cannot_mean_is_refused_with_its_name(whole, tmp_path, case):
  after, skip, value, sentence = CASES[case]
  assert sentence in _error(tmp_path / "a.gguf", _changed(whole, after, skip, value))


def test_a_header_without_end_is_refused(whole, tmp_path):
  # A list of bytes that fits into the file, and would be read one by one.
  at = whole.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 4
  content = whole[:at] + _u32(0) + _u64(2**23) + bytes(2**23)
  assert "tokenizer.ggml.tokens: 8,388,608 values, too many for a header" in _error(
    tmp_path / "a.gguf", content
  )


def test_a_file_that_is_cut_off_anywhere_is_refused(whole, tmp_path):
  for length in range(0, len(whole), len(whole) // 20):
    _error(tmp_path / "a.gguf", whole[:length])


def test_a_file_with_any_wrong_byte_is_read_or_refused(whole, tmp_path):
  chance, path = random.Random(0), tmp_path / "a.gguf"
  header = whole.index(b"ffn_down")
  for _ in range(60):
    path.write_bytes(_changed(whole, chance.randrange(header), 0, chance.randbytes(1)))
    with contextlib.suppress(ValueError):
      _check(path)


def test_the_command_ends_with_the_sentence(whole, tmp_path, capsys):
  path = tmp_path / "a.gguf"
  path.write_bytes(_changed(whole, KEY_COUNT, 0, _u64(2**63)))
  assert main(["import-gguf", str(path), str(tmp_path / "out")]) == 2
  said = capsys.readouterr().err
  assert said.startswith(f"error: {path} is not a GGUF file, or not a whole one (at ")
  assert not (tmp_path / "out").exists()
