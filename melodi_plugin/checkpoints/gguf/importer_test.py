"""Tensors, keys and tokenizer of small GGUF files; MaxText itself runs in integration_tests."""

import sys

import gguf
import numpy as np
import pytest

from melodi_plugin.checkpoints.gguf import tokenizer as gguf_tokenizer
from melodi_plugin.checkpoints.gguf.importer import model_keys, open_gguf
from melodi_plugin.checkpoints.gguf.parameters import read_parameters, unpermute
from melodi_plugin.cli.main import main
from melodi_plugin.testing.files.gguf_file import (
  LAYERS,
  TOKENS,
  D,
  F,
  H,
  K,
  h,
  random_tensors,
  write_gguf,
)


def _maxtext_shapes() -> dict[str, tuple[int, ...]]:
  layer = {
    "pre_self_attention_layer_norm/scale": (D, LAYERS),
    "self_attention/query/kernel": (D, LAYERS, H, h),
    "self_attention/key/kernel": (D, LAYERS, K, h),
    "self_attention/value/kernel": (D, LAYERS, K, h),
    "self_attention/out/kernel": (H, LAYERS, h, D),
    "post_self_attention_layer_norm/scale": (D, LAYERS),
    "mlp/wi_0/kernel": (D, LAYERS, F),
    "mlp/wi_1/kernel": (D, LAYERS, F),
    "mlp/wo/kernel": (F, LAYERS, D),
  }
  return {
    "token_embedder/embedding": (len(TOKENS), D),
    "decoder/decoder_norm/scale": (D,),
    **{f"decoder/layers/{path}": shape for path, shape in layer.items()},
  }


def _read(path, shapes):
  file = open_gguf(path)
  return read_parameters(file.tensors, shapes, layers=LAYERS, head_dim=h, scan_axis=1)


def _permute(weight, heads):
  """What the conversion to GGUF does to queries and keys of llama models."""
  halves = weight.reshape(heads, 2, -1, weight.shape[1])
  return halves.swapaxes(1, 2).reshape(weight.shape)


@pytest.mark.parametrize("heads", [1, 3])
def test_unpermute_undoes_the_permutation_of_gguf(heads):
  weight = np.arange(heads * 8 * 5, dtype=np.float32).reshape(heads * 8, 5)
  permuted = _permute(weight, heads)
  assert not np.array_equal(permuted, weight)
  np.testing.assert_array_equal(unpermute(permuted, 8), weight)


def test_every_tensor_fills_its_part_of_a_parameter(tmp_path):
  tensors = random_tensors(tied=True)
  found = _read(write_gguf(tmp_path / "a.gguf", tensors), _maxtext_shapes())
  assert sum(array.size for array in found.values()) == sum(t.size for t in tensors.values())
  for layer in range(LAYERS):
    own = {path[15:]: np.take(a, layer, 1) for path, a in found.items() if "/layers/" in path}
    theirs = {name[6:-7]: t for name, t in tensors.items() if name.startswith(f"blk.{layer}.")}
    query = own["self_attention/query/kernel"].reshape(D, -1).T * np.sqrt(np.float32(h))
    np.testing.assert_allclose(_permute(query, H), theirs["attn_q"], rtol=1e-6)
    key = own["self_attention/key/kernel"].reshape(D, -1).T
    np.testing.assert_array_equal(_permute(key, K), theirs["attn_k"])
    value = own["self_attention/value/kernel"].reshape(D, -1).T
    np.testing.assert_array_equal(value, theirs["attn_v"])
    out = own["self_attention/out/kernel"].reshape(-1, D).T
    np.testing.assert_array_equal(out, theirs["attn_output"])
    for ours, name in (("wi_0", "ffn_gate"), ("wi_1", "ffn_up"), ("wo", "ffn_down")):
      np.testing.assert_array_equal(own[f"mlp/{ours}/kernel"].T, theirs[name])


def test_quantized_tensors_are_dequantized(tmp_path):
  tensors = random_tensors(tied=True)
  path = write_gguf(tmp_path / "a.gguf", tensors, quantized=["token_embd.weight"])
  found = _read(path, _maxtext_shapes())["token_embedder/embedding"]
  assert found.dtype == np.float32
  error = np.abs(found - tensors["token_embd.weight"]).max()
  assert 0 < error < 0.01


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    ({"blk.0.attn_q.bias": (H * h,)}, "the tensor blk.0.attn_q.bias has no place"),
    ({"blk.2.attn_q.weight": (H * h, D)}, "the tensor blk.2.attn_q.weight has no place"),
    ({"output.weight": (len(TOKENS), D)}, "the tensor output.weight has no place"),
    ({"blk.1.ffn_up.weight": None}, "there is no tensor blk.1.ffn_up.weight"),
    ({"blk.1.ffn_up.weight": (F, D + 1)}, r"ffn_up.weight gives \(33, 64\) and .* \(32, 64\)"),
    ({"blk.0.attn_k.weight": (K * h + 1, D)}, "the tensor blk.0.attn_k.weight cannot be read"),
  ],
)
def test_a_tensor_too_many_too_few_or_of_another_shape_is_named(tmp_path, change, sentence):
  tensors = random_tensors(tied=True)
  for name, shape in change.items():
    tensors.pop(name, None)
    if shape:
      tensors[name] = np.ones(shape, np.float32)
  path = write_gguf(tmp_path / "a.gguf", tensors)
  with pytest.raises(ValueError, match=sentence):
    _read(path, _maxtext_shapes())


def test_a_parameter_of_maxtext_that_no_tensor_fills_is_named(tmp_path):
  path = write_gguf(tmp_path / "a.gguf", random_tensors(tied=True))
  with pytest.raises(ValueError, match="nothing for decoder/layers/bias"):
    _read(path, _maxtext_shapes() | {"decoder/layers/bias": (1,)})


@pytest.mark.parametrize("tied", [True, False])
def test_model_keys(tmp_path, tied):
  keys = model_keys(open_gguf(write_gguf(tmp_path / "a.gguf", random_tensors(tied=tied))))
  assert keys == {
    "decoder_block": "llama2",
    "base_emb_dim": D,
    "base_num_query_heads": H,
    "base_num_kv_heads": K,
    "base_mlp_dim": F,
    "base_num_decoder_layers": LAYERS,
    "head_dim": h,
    "vocab_size": len(TOKENS),
    "rope_max_timescale": 5000,
    "normalization_layer_epsilon": 1e-5,
    "logits_via_embedding": tied,
    "normalize_embedding_logits": False,
    "mlp_activations": ["silu", "linear"],
    "enable_dropout": False,
    "dropout_rate": 0.0,
    "add_bos": False,
  }


def _tokenizer(tmp_path, **more):
  return gguf_tokenizer.build(open_gguf(write_gguf(tmp_path / "a.gguf", {}, **more)).header)


@pytest.mark.parametrize(
  ("pre", "pieces"),
  [
    ("smollm", ["<|start|>", "Ġthe", "Ġ", "1", "2", "Ġ", "Ã", "©", "\u010a"]),
    ("gpt-2", ["<|start|>", "Ġthe", "Ġ", "12", "Ġ", "Ã", "©", "\u010a"]),
  ],
)
def test_tokenizer_cuts_as_its_kind_does(tmp_path, pre, pieces):
  text = "<|start|> the 12 é\n"
  tokenizer = _tokenizer(tmp_path, pre=pre)
  ids = tokenizer.encode(text)
  assert [TOKENS[index] for index in ids] == pieces
  assert tokenizer.decode(ids) == text
  assert tokenizer.decode(ids, skip_special_tokens=True) == text.removeprefix("<|start|>")
  assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 0, None)
  assert len(tokenizer) == len(TOKENS)


@pytest.mark.parametrize(
  ("key", "value", "sentence"),
  [
    ("pre", "qwen2", "kind gpt2 with the pre-tokenizer qwen2, and only gpt2 with gpt-2 or smollm"),
    ("model", "llama", "kind llama with the pre-tokenizer smollm, and only"),
    ("merges", ["h e", "t he"], "the merge 't he' of its tokenizer"),
    ("tokens", [*TOKENS, "<|end|>"], "two tokens with the same text"),
  ],
)
def test_other_and_broken_tokenizers_are_refused(tmp_path, key, value, sentence):
  header = open_gguf(write_gguf(tmp_path / "a.gguf", {})).header
  header[f"tokenizer.ggml.{key}"] = value
  with pytest.raises(ValueError, match=sentence):
    gguf_tokenizer.build(header)


def _error(capsys, *argv: object) -> str:
  assert main(["import-gguf", *map(str, argv)]) == 2
  printed = capsys.readouterr().err
  assert printed.startswith("error: ") and printed.count("\n") == 1
  return printed


def test_errors_of_the_command_are_one_sentence(tmp_path, capsys, monkeypatch):
  out = tmp_path / "out"
  assert "required: OUT" in _error(capsys, "a.gguf")
  assert "neither true nor" in _error(capsys, "a.gguf", out, "scan_layers=maybe")
  assert "there is no file missing.gguf" in _error(capsys, "missing.gguf", out)
  text = tmp_path / "text.gguf"
  for content in ("", "not a model", "GGUF"):
    text.write_text(content)
    assert "text.gguf is not a GGUF file" in _error(capsys, text, out)
  other = write_gguf(tmp_path / "other.gguf", {}, arch="qwen2")
  assert "has the architecture qwen2 and only llama" in _error(capsys, other, out)
  scaled = write_gguf(tmp_path / "scaled.gguf", {}, add_rope_scaling_type=gguf.RopeScalingType.YARN)
  assert "scaled.gguf: llama.rope.scaling.type is yarn" in _error(capsys, scaled, out)
  unknown = write_gguf(tmp_path / "unknown.gguf", {}, pre="qwen2")
  assert "unknown.gguf: its tokenizer is of the kind" in _error(capsys, unknown, out)
  assert not out.exists()
  (out / "0").mkdir(parents=True)
  assert "out holds a checkpoint already" in _error(capsys, other, out)
  monkeypatch.setitem(sys.modules, "melodi_plugin.checkpoints.gguf.reader", None)
  assert "install the extra gguf" in _error(capsys, other, tmp_path / "new")


def test_a_missing_key_is_named(tmp_path):
  file = open_gguf(write_gguf(tmp_path / "a.gguf", {}))
  del file.header["llama.block_count"]
  with pytest.raises(ValueError, match=r"there is no llama\.block_count; the file is broken"):
    model_keys(file)
