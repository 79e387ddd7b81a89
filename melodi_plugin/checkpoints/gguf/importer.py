"""Imports a GGUF file of the llama architecture, quantized or not, for MaxText's llama2.

The import is a folder:

  <output folder>/0/items     the parameters in float32, for load_parameters_path
  <output folder>/tokenizer   the file's tokenizer, for tokenizer_type=huggingface
  <output folder>/model.yml   the keys of the model, a MaxText config on top of base.yml
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

from melodi_plugin.checkpoints.gguf import tokenizer as gguf_tokenizer
from melodi_plugin.checkpoints.gguf.header import Header
from melodi_plugin.checkpoints.gguf.parameters import read_parameters
from melodi_plugin.maxtext.configs import load_config
from melodi_plugin.maxtext.light import WITHOUT_DOCUMENTS
from melodi_plugin.maxtext.loading import save_params
from melodi_plugin.maxtext.weights import described_shapes
from melodi_plugin.training.progress import quiet_logs


class GGUF(NamedTuple):
  """An open GGUF file."""

  header: Header
  tensors: dict[str, Any]  # gguf.ReaderTensor, by name; read where it is first used


def import_file(
  path: Path, output: Path, *, scan_layers: bool = True, own_head: bool = False
) -> None:
  """Writes parameters, tokenizer and config of a GGUF file into the folder `output`.

  Args:
    path: the GGUF file.
    output: a folder that holds no import yet.
    scan_layers: stacks all layers; else every layer is written by itself.
    own_head: gives a model with tied embeddings an output head of its own, with the same values:
      MaxText 0.2.5 rounds a tied head to bfloat16.

  Raises:
    ValueError: for a file that cannot be imported, or an `output` that holds an import already.
  """
  if (output / "0").exists():
    raise ValueError(f"{output} holds a checkpoint already; delete it or name another folder.")
  file = open_gguf(path)
  if own_head:
    file.tensors.setdefault("output.weight", file.tensors.get("token_embd.weight"))
  with _naming(path):
    keys = model_keys(file)
    tokenizer = gguf_tokenizer.build(file.header)
    check_sizes(file, keys)
    keys |= {
      "scan_layers": scan_layers,
      "tokenizer_type": "huggingface",
      "tokenizer_path": str((output / "tokenizer").resolve()),
    }
    output.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output / "tokenizer")
    write_yaml(output / "model.yml", keys, f"{path.name}, imported by `melodi import-gguf`")
    shapes, scan_axis = maxtext_shapes(output / "model.yml")
    layers, head_dim = keys["base_num_decoder_layers"], keys["head_dim"]
    parameters = read_parameters(
      file.tensors, shapes, layers=layers, head_dim=head_dim, scan_axis=scan_axis
    )
  quiet_logs()
  with Console(stderr=True).status("writing parameters"):
    save_params(output / "0", parameters)
  count = sum(array.size for array in parameters.values())
  console = Console(soft_wrap=True, highlight=False, markup=False)
  console.print(f"{count:,} parameters: load_parameters_path={output / '0' / 'items'}")
  console.print(f"{len(tokenizer):,} tokens: tokenizer_path={output / 'tokenizer'}")
  console.print(f"config of the model: {output / 'model.yml'}")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
  """Says in an error what file it is about."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def open_gguf(path: Path) -> GGUF:
  """Opens a file without reading its tensors; raises ValueError if it is not a llama model."""
  try:
    from melodi_plugin.checkpoints.gguf.reader import Reader  # needs the package of an extra
  except ImportError as error:
    raise ValueError(
      "the package gguf is not installed; install the extra gguf of melodi_plugin "
      "(uv sync --extra gguf)."
    ) from error
  if not path.is_file():
    raise ValueError(f"there is no file {path}; give the path of a .gguf file.")
  try:
    reader = Reader(path)
    header = Header(reader.header())
  except ValueError as error:
    raise ValueError(
      f"{path} is not a GGUF file, or not a whole one ({error}); download it again."
    ) from error
  architecture = header.get("general.architecture")
  if architecture != "llama":
    raise ValueError(
      f"{path} has the architecture {architecture} and only llama can be imported; use another "
      "model."
    )
  return GGUF(header, {tensor.name: tensor for tensor in reader.tensors})


def model_keys(file: GGUF) -> dict[str, Any]:
  """MaxText's keys of the model.

  Raises:
    ValueError: if the header lacks a key, or asks for what MaxText's llama2 has not.
  """
  header = file.header
  heads, dim = header.count("llama.attention.head_count"), header.count("llama.embedding_length")
  head_dim = header.count("llama.attention.key_length", dim // heads)
  base = header.positive("llama.rope.freq_base", 10000.0)
  _check_same_model(header, head_dim)
  keys = {
    "decoder_block": "llama2",
    "base_emb_dim": dim,
    "base_num_query_heads": heads,
    "base_num_kv_heads": header.count("llama.attention.head_count_kv", heads),
    "base_mlp_dim": header.count("llama.feed_forward_length"),
    "base_num_decoder_layers": header.count("llama.block_count"),
    "head_dim": head_dim,
    "vocab_size": len(header.strings("tokenizer.ggml.tokens")),
    "rope_max_timescale": int(base) if base == int(base) else base,
    # The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06.
    "normalization_layer_epsilon": float(
      str(np.float32(header.positive("llama.attention.layer_norm_rms_epsilon")))
    ),
    "logits_via_embedding": "output.weight" not in file.tensors,
    "normalize_embedding_logits": False,
    "mlp_activations": ["silu", "linear"],
    "enable_dropout": False,
    "dropout_rate": 0.0,
  }
  ends = {key: header.get(f"tokenizer.ggml.{key}_token") for key in ("add_bos", "add_eos")}
  return keys | {key: value for key, value in ends.items() if value is not None}


def _check_same_model(header: Header, head_dim: int) -> None:
  needed = {
    "llama.rope.dimension_count": head_dim,  # all of a head is rotated
    "llama.attention.value_length": head_dim,
    "llama.rope.scaling.type": "none",
    "llama.rope.scale_linear": 1.0,
    "llama.expert_count": 0,
  }
  for name, value in needed.items():
    if (found := header.get(name, value)) != value:
      raise ValueError(f"{name} is {found} and MaxText's llama2 has {value}; use another model.")


def check_sizes(file: GGUF, keys: Mapping[str, Any]) -> None:
  """Raises ValueError if the tensors do not have the header's sizes: MaxText believes any size."""
  layers, head_dim, dim = (
    keys[key] for key in ("base_num_decoder_layers", "head_dim", "base_emb_dim")
  )
  if layers > len(file.tensors):
    raise ValueError(
      f"llama.block_count is {layers:,} and there are {len(file.tensors):,} tensors; the file is "
      "broken."
    )
  for name, rows in (
    ("token_embd.weight", keys["vocab_size"]),
    ("blk.0.attn_q.weight", keys["base_num_query_heads"] * head_dim),
    ("blk.0.attn_k.weight", keys["base_num_kv_heads"] * head_dim),
    ("blk.0.ffn_up.weight", keys["base_mlp_dim"]),
  ):
    if name not in file.tensors:
      raise ValueError(f"there is no tensor {name}; the file is broken.")
    found = tuple(file.tensors[name].shape.tolist()[::-1])  # GGUF has the innermost size first
    if found != (rows, dim):
      raise ValueError(
        f"the tensor {name} is {found} and the header says {(rows, dim)}; the file is broken."
      )


def write_yaml(path: Path, keys: Mapping[str, Any], title: str) -> None:
  """Writes a MaxText config on top of base.yml."""
  text = OmegaConf.to_yaml(OmegaConf.create({"base_config": "base.yml", **keys}))
  path.write_text(f"# {title}\n{text}")


def maxtext_shapes(config_path: Path) -> tuple[dict[str, tuple[int, ...]], int | None]:
  """Shapes of the parameters of MaxText's own model, by path; nothing is allocated.

  Returns:
    The shapes, and the axis of the layers in those of scanned layers.
  """
  more = ["skip_jax_distributed_system=true", "log_config=false", WITHOUT_DOCUMENTS]
  names = ["run_name=import_gguf", "base_output_directory=unused", "enable_checkpointing=false"]
  config = load_config(["", str(config_path), *more, *names])
  return described_shapes(config), config.param_scan_axis if config.scan_layers else None
