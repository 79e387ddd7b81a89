"""Small GGUF files of llama models with a tokenizer of a few merges."""

import pathlib
from collections.abc import Collection
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from tokenizers.pre_tokenizers import ByteLevel

D, H, K, h, F, LAYERS = 32, 4, 2, 16, 64, 2  # H · h is not D
CONTROL = ["<|end|>", "<|start|>"]
MERGES = ["h e", "Ġ t", "Ġt he", "1 2"]
TOKENS = [*CONTROL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def random_tensors(*, tied: bool) -> dict[str, np.ndarray]:
  """The tensors of a llama model in GGUF's layout, [out, in]."""
  chance = np.random.default_rng(0)
  shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), D)}
  shapes |= {"output_norm.weight": (D,)}
  if not tied:
    shapes["output.weight"] = (len(TOKENS), D)
  for layer in range(LAYERS):
    own = {
      "attn_norm": (D,),
      "attn_q": (H * h, D),
      "attn_k": (K * h, D),
      "attn_v": (K * h, D),
      "attn_output": (D, H * h),
      "ffn_norm": (D,),
      "ffn_gate": (F, D),
      "ffn_up": (F, D),
      "ffn_down": (D, F),
    }
    shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in own.items()}
  tensors = {
    name: chance.normal(loc=len(shape) == 1, scale=1 / np.sqrt(shape[-1]), size=shape)
    for name, shape in shapes.items()
  }
  return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_gguf(
  path: pathlib.Path,
  tensors: dict[str, np.ndarray],
  *,
  quantized: Collection[str] = (),
  arch: str = "llama",
  pre: str = "smollm",
  **more: Any,
) -> pathlib.Path:
  """Writes a GGUF file; the tensors named in `quantized` as Q8_0, `more` are header values."""
  writer = gguf.GGUFWriter(path, arch)
  writer.add_block_count(LAYERS)
  writer.add_embedding_length(D)
  writer.add_feed_forward_length(F)
  writer.add_head_count(H)
  writer.add_head_count_kv(K)
  writer.add_key_length(h)
  writer.add_rope_freq_base(5000.0)
  writer.add_layer_norm_rms_eps(1e-5)
  writer.add_tokenizer_model("gpt2")
  writer.add_tokenizer_pre(pre)
  writer.add_token_list(TOKENS)
  types = [TokenType.CONTROL if token in CONTROL else TokenType.NORMAL for token in TOKENS]
  writer.add_token_types(types)
  writer.add_token_merges(MERGES)
  writer.add_eos_token_id(0)
  writer.add_bos_token_id(1)
  writer.add_add_bos_token(False)
  for key, value in more.items():
    getattr(writer, key)(value)
  for name, tensor in tensors.items():
    if name in quantized:
      kind = GGMLQuantizationType.Q8_0
      writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    else:
      writer.add_tensor(name, tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path
