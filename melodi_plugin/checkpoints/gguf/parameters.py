"""The tensors of a GGUF file of a llama model, as the parameters of MaxText's llama2.

Letters: V vocabulary, D model, H query heads, K key and value heads, h head_dim, F MLP.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

Arrange = Callable[[np.ndarray, int], np.ndarray]  # a tensor and head_dim to MaxText's layout


class Place(NamedTuple):
  """Where one tensor goes."""

  path: str  # of MaxText's parameter, in its layer if it is in one
  arrange: Arrange


def unpermute(weight: np.ndarray, head_dim: int) -> np.ndarray:
  """Puts the two halves of a rotated pair `head_dim / 2` rows apart again.

  GGUF has them side by side in queries and keys of llama models; MaxText rotates halves.

  Args:
    weight: (heads · h, D).
    head_dim: h.

  Returns:
    The rows of `weight` in MaxText's order, the same shape.
  """
  pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
  return pairs.swapaxes(1, 2).reshape(weight.shape)


def _heads(weight: np.ndarray, head_dim: int) -> np.ndarray:
  """(heads · h, D) to (D, heads, h)."""
  return weight.T.reshape(weight.shape[1], -1, head_dim)


def _query(weight: np.ndarray, head_dim: int) -> np.ndarray:
  """(H · h, D) to (D, H, h); MaxText's llama2 has no 1/√h but the one in this kernel."""
  return _heads(unpermute(weight, head_dim), head_dim) / np.float32(math.sqrt(head_dim))


_OUTSIDE = {
  "token_embd.weight": Place("token_embedder/embedding", lambda w, h: w),
  "output_norm.weight": Place("decoder/decoder_norm/scale", lambda w, h: w),
  "output.weight": Place("decoder/logits_dense/kernel", lambda w, h: w.T),
}
_IN_LAYER = {
  "attn_norm.weight": Place("pre_self_attention_layer_norm/scale", lambda w, h: w),
  "attn_q.weight": Place("self_attention/query/kernel", _query),
  "attn_k.weight": Place("self_attention/key/kernel", lambda w, h: _heads(unpermute(w, h), h)),
  "attn_v.weight": Place("self_attention/value/kernel", _heads),
  "attn_output.weight": Place(
    "self_attention/out/kernel", lambda w, h: w.T.reshape(-1, h, w.shape[0])
  ),
  "ffn_norm.weight": Place("post_self_attention_layer_norm/scale", lambda w, h: w),
  "ffn_gate.weight": Place("mlp/wi_0/kernel", lambda w, h: w.T),
  "ffn_up.weight": Place("mlp/wi_1/kernel", lambda w, h: w.T),
  "ffn_down.weight": Place("mlp/wo/kernel", lambda w, h: w.T),
}


def read_parameters(
  tensors: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  *,
  layers: int,
  head_dim: int,
  scan_axis: int | None,
) -> dict[str, np.ndarray]:
  """Dequantizes all tensors into MaxText's parameters.

  Args:
    tensors: gguf.ReaderTensor, by name.
    shapes: of the parameters, by path.
    layers: how many the model has.
    head_dim: h.
    scan_axis: axis of the layers; None if every layer has parameters of its own.

  Returns:
    float32 arrays of these shapes, by path.

  Raises:
    ValueError: for a tensor that is missing, has no place, or does not fit its place.
  """
  wanted = [name for name, place in _OUTSIDE.items() if place.path in shapes]
  wanted += [f"blk.{layer}.{name}" for layer in range(layers) for name in _IN_LAYER]
  for name in sorted({*wanted} ^ tensors.keys()):
    if name in wanted:
      raise ValueError(f"there is no tensor {name}; the file is broken.")
    raise ValueError(f"the tensor {name} has no place in MaxText's llama2; use another model.")
  parameters = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
  places = _places(parameters, layers, scan_axis)
  console = Console(stderr=True)
  for name in track(places, "reading tensors", console=console, transient=True):
    _fill(tensors[name], *places[name], head_dim)
  return parameters


def _places(
  parameters: Mapping[str, np.ndarray], layers: int, scan_axis: int | None
) -> dict[str, tuple[np.ndarray, Arrange]]:
  """By the name of a tensor: the view of `parameters` to fill with it, and how."""
  free = dict(parameters)
  found = {}
  for name, place in _OUTSIDE.items():
    if place.path in free:
      found[name] = free.pop(place.path), place.arrange
  for name, place in _IN_LAYER.items():
    stacked = None
    if scan_axis is not None:
      stacked = np.moveaxis(free.pop(f"decoder/layers/{place.path}"), scan_axis, 0)
    for layer in range(layers):
      own = f"decoder/layers_{layer}/{place.path}"
      target = free.pop(own) if stacked is None else stacked[layer]
      found[f"blk.{layer}.{name}"] = target, place.arrange
  if free:
    raise ValueError(f"there is nothing for {min(free)} of MaxText's model; use another model.")
  return found


def _fill(tensor: Any, target: np.ndarray, arrange: Arrange, head_dim: int) -> None:
  from gguf.quants import dequantize  # an extra

  try:
    value = arrange(dequantize(tensor.data, tensor.tensor_type), head_dim)
  except (ValueError, NotImplementedError) as error:
    raise ValueError(f"the tensor {tensor.name} cannot be read ({error}); use another.") from error
  if value.shape != target.shape:
    raise ValueError(
      f"the tensor {tensor.name} gives {value.shape} and the header {target.shape}; the file is "
      "broken."
    )
  target[...] = value
