"""Tiny stock models of every block, and the same models with memory around their layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from integration_tests import running

MOE = {
  "num_experts": 4,
  "num_experts_per_tok": 2,
  "base_moe_mlp_dim": 64,
  "sparse_matmul": False,
  "megablox": False,
  "capacity_factor": -1.0,
  "load_balance_loss_weight": 0.0,
}
QK_NORM = {"use_qk_norm": True}
GEMMA = {"use_post_attn_norm": True, "use_post_ffw_norm": True, "sliding_window_size": 6}
BLOCKS: dict[str, dict[str, Any]] = {
  "llama2": {},
  "mistral": {},
  "qwen2": {},
  "qwen3": QK_NORM,
  "mixtral": MOE,
  "qwen3_moe": QK_NORM | MOE,
  "gemma2": GEMMA | {"attn_logits_soft_cap": 5.0, "final_logits_soft_cap": 30.0},
  # One whole pattern of six layers, and one that is left over.
  "gemma3": GEMMA
  | {"model_name": "gemma3-4b", "override_model_config": True, "base_num_decoder_layers": 7},
}
SIZES = {
  "base_num_kv_heads": 1,
  "max_target_length": 32,
  "per_device_batch_size": 0.25,  # 2 rows
  "matmul_precision": "highest",
  "logits_via_embedding": False,  # MaxText rounds a tied head to bfloat16
  "enable_dropout": False,
  "dropout_rate": 0.0,
}
WINDOW, SUMMARY, SHORT = 16, 4, 6
MELODI = {
  "melodi_window_length": WINDOW,
  "melodi_summary_tokens": SUMMARY,
  "melodi_short_term_tokens": SHORT,
  "melodi_long_term_increment": 2,
  "melodi_long_term_windows": 3,
}


def keys(block: str, *, melodi: bool = True, **more: Any) -> dict[str, Any]:
  """The keys of a tiny model, with memory around its layers or without."""
  own = {"decoder_block": block, **BLOCKS[block]}
  memory = {"melodi_base_block": block} | MELODI if melodi else {}
  return running.TINY | SIZES | own | memory | more


def new_config(block: str, *, melodi: bool = True, **more: Any) -> Any:
  """MaxText's config of `keys`."""
  return running.initialize(**keys(block, melodi=melodi, **more))


def build(config: Any) -> nnx.Module:
  """MaxText's model on one device."""
  from maxtext.utils import maxtext_utils, model_creation_utils

  devices = jax.devices()[:1]
  mesh = maxtext_utils.get_mesh_from_config(config, devices)
  return model_creation_utils.from_config(config, devices=devices, mesh=mesh, rngs=nnx.Rngs(0))


def params_of(model: nnx.Module) -> dict[str, nnx.Param]:
  """The parameters by path; writing to them writes to the model."""
  return by_path(nnx.state(model, nnx.Param))


def by_path(state: nnx.State) -> dict[str, nnx.Param]:
  """The variables of a state by path."""
  return {"/".join(map(str, path)): own for path, own in nnx.to_flat_state(state)}


def state_of(model: nnx.Module) -> nnx.State:
  """The model's variables, to be written to without changing the model."""
  return jax.tree.map(lambda leaf: leaf, nnx.state(model))


def randomize(model: nnx.Module, seed: int = 0, scale: float = 0.1) -> None:
  """Moves every parameter off its initial value, so that a missing term shows."""
  chance = np.random.default_rng(seed)
  for param in params_of(model).values():
    noise = jnp.asarray(chance.normal(size=param.shape), param.dtype)
    param[...] = param[...] + scale * noise


def copy_stock(stock: nnx.Module, grafted: nnx.Module) -> None:
  """Gives a model with memory the weights of the stock model."""
  own = params_of(grafted)
  for name, param in params_of(stock).items():
    own[name][...] = param[...]


def unscanned(name: str, array: Any, axis: int = 1) -> dict[str, Any]:
  """A parameter of a scanned model as the unscanned model has it: one array per layer."""
  if "_to_" in name:  # decoder/memory_layers_0_to_1/...
    decoder, run, *rest = name.split("/")
    prefix, first = run.split("_to_")[0].rsplit("_", 1)
    make = lambda i: "/".join((decoder, f"{prefix}_{int(first) + i}", *rest))  # noqa: E731
  elif name.startswith("decoder/layers/layers_"):  # a pattern of six layers
    index, rest = name.removeprefix("decoder/layers/layers_").split("/", 1)
    make = lambda i: f"decoder/layers_{6 * i + int(index)}/{rest}"  # noqa: E731
  elif name.startswith("decoder/layers/"):
    make = lambda i: name.replace("/layers/", f"/layers_{i}/")  # noqa: E731
  elif name.startswith("decoder/layers_remainder/"):  # of the one whole pattern in `BLOCKS`
    index, rest = name.removeprefix("decoder/layers_remainder/layers_").split("/", 1)
    return {f"decoder/layers_{6 + int(index)}/{rest}": array}
  else:
    return {name: array}
  axis = axis if array.ndim > 1 else 0
  return {make(i): jnp.take(array, i, axis) for i in range(array.shape[axis])}


def reader(model: nnx.Module):
  """A compiled (state, tokens, positions, segment ids) -> (logits, state)."""
  graphdef = nnx.graphdef(model)

  @jax.jit
  def read(state, tokens, positions, ids):
    model = nnx.merge(graphdef, state, copy=True)
    logits = model(tokens, positions, ids, enable_dropout=False)
    return logits[0] if isinstance(logits, tuple) else logits, nnx.state(model)

  return read
